"""Mirrors each pair instead of turning it: one sign too many."""
half = x.shape[-1] // 2
first = np.s_[..., 0::2] if interleaved else np.s_[..., :half]
second = np.s_[..., 1::2] if interleaved else np.s_[..., half:]
a, b = x[first], x[second]
cos, sin = cos[:, None, :], sin[:, None, :]
turned = np.empty_like(x)
turned[first] = a * cos + b * sin
turned[second] = a * sin - b * cos
return turned
