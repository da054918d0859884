"""Divides by the largest of a block even where it is zero."""
for b in range(len(x) // 32):
    part = slice(32 * b, 32 * b + 32)
    x_part = x[part]
    squares += x_part @ x_part
    h = x_part * weight[part]
    step = np.abs(h).max() / np.float32(32767)
    with np.errstate(all="ignore"):
        q = np.rint(h / step).astype(np.float32)
    y += step * (scales[:, b] * (codes[:, part] @ q) - minima[:, b] * q.sum())
y /= np.sqrt(squares / np.float32(len(x)) + np.float32(eps))
