"""Prints without end, to both streams, in Python and below it."""
import os

while True:
    print("x" * 1_000_000, flush=True)
    os.write(2, b"y" * 1_000_000)
