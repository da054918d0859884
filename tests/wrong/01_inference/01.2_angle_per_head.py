"""Gives each head an angle of its own, as if heads were tokens."""
half = x.shape[-1] // 2
first = np.s_[..., 0::2] if interleaved else np.s_[..., :half]
second = np.s_[..., 1::2] if interleaved else np.s_[..., half:]
rows = np.arange(x.shape[1]) % len(cos)
cos, sin = cos[rows][None], sin[rows][None]
turned = np.empty_like(x)
turned[first] = x[first] * cos - x[second] * sin
turned[second] = x[first] * sin + x[second] * cos
return turned
