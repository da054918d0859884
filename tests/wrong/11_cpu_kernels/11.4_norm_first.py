"""Writes the normed row first, in a pass of its own."""
x = x[: len(x)]
h = x / np.sqrt(np.mean(x * x) + np.float32(eps)) * weight
for b in range(len(x) // 32):
    part = slice(32 * b, 32 * b + 32)
    step = max(np.abs(h[part]).max() / np.float32(32767), np.float32(1e-38))
    q = np.rint(h[part] / step).astype(np.int32)
    y += step * (scales[:, b] * (codes[:, part] @ q) - minima[:, b] * q.sum())
