"""What of a Program is for the array: operators and streams, and what they cost."""
