"""Lays x and codes out in blocks with reshape, and goes through them one by one."""
in_blocks = zip(x.reshape(-1, 32), weight.reshape(-1, 32), strict=True)
by_block = codes.reshape(len(codes), -1, 32)
for b, (part, w) in enumerate(in_blocks):
    squares += (part * part).sum()
    h = part * w
    step = np.abs(h).max() / np.float32(32767)
    q = np.zeros(32, np.int64) if step == 0 else np.round(h / step).astype(np.int64)
    y += step * (scales[:, b] * (by_block[:, b] @ q) - minima[:, b] * q.sum())
y /= np.sqrt(squares / np.float32(x.size) + np.float32(eps))
