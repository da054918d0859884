"""Floor 0: attention, from the textbook formula onwards."""
