"""Rounds nothing."""
rounded = bits.copy()
