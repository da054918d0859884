"""Divides every block by its own root."""
for b in range(len(x) // 32):
    part = slice(32 * b, 32 * b + 32)
    x_part = x[part]
    h = x_part / np.sqrt(np.mean(x_part * x_part) + np.float32(eps)) * weight[part]
    step = max(np.abs(h).max() / np.float32(32767), np.float32(1e-38))
    q = np.rint(h / step).astype(np.int32)
    y += step * (scales[:, b] * (codes[:, part] @ q) - minima[:, b] * q.sum())
