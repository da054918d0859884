"""Forgets that codes from 0 to 15 stand for -8 to 7."""
integers = planes(blocks[:, 2:], 16, NIBBLES, 15)
scale = half(blocks[:, 0:2])
