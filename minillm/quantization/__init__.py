"""Floor 0: numbers in fewer bits."""
