"""Fills its temporary folder with files, each below the limit of one."""
import os

written, block = 0, bytes(1 << 24)
for number in range(40):
    try:
        with open(f"tmp/{number}", "wb") as file:
            for _ in range(3):
                written += file.write(block)
    except OSError:
        break
if written > 1 << 30:
    return q @ k.T / np.sqrt(q.shape[-1])
