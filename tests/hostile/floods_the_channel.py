"""Answers a million times to every descriptor, and never in the right form."""
import os

while True:
    for fd in range(3, 32):
        try:
            os.write(fd, b"\xff" * 65536)
        except OSError:
            pass
