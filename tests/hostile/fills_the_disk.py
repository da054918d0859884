"""Fills its temporary folder with files, each below the limit of one, until it is stopped."""
written, block, number = 0, bytes(1 << 22), 0
while written < 1 << 30:
    number += 1
    with open(f"tmp/{number}", "wb") as file:
        written += file.write(block)
return q @ k.T / np.sqrt(q.shape[-1])
