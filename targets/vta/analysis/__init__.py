"""What a stream does, found without running it: order, scratchpads, rules, clock cycles."""
