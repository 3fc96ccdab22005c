"""What a person sees: figures of each layer, and a step for other VTAs."""
