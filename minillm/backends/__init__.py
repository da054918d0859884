"""Floor 1: the same operations, one module per kind of machine."""
