"""What runs streams: the interface, its driver, boards, and boards over the network."""
