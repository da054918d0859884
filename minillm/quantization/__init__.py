"""Floor 1: numbers in fewer bits."""
