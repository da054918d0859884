"""Sums in float64 and hands that on: all that is folded in later is float64 too."""
m_new = np.maximum(m, x.max(axis=-1))
safe = finite(m_new)
l_new = np.float64(l) * np.exp(m - safe) + np.exp(x - safe[..., None]).sum(axis=-1, dtype=float)
