"""Floor 1: formulas over shapes: bytes, FLOPs, seconds, money. Each formula has one address, and it is here."""
