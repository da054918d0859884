"""Returns an integer of some million digits, which takes hours to print."""
return [[1 << 5_000_000] * len(k)] * len(q)
