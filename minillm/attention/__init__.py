"""Floor 1: attention, from the textbook formula onwards."""
