"""Overwrites the first component before the second has used it."""
half = x.shape[-1] // 2
first = np.s_[..., 0::2] if interleaved else np.s_[..., :half]
second = np.s_[..., 1::2] if interleaved else np.s_[..., half:]
cos, sin = cos[:, None, :], sin[:, None, :]
x[first] = x[first] * cos - x[second] * sin
x[second] = x[first] * sin + x[second] * cos
return x
