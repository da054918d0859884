"""Adds the new sum to the old one, though they were taken under different maxima."""
m_new = np.maximum(m, x.max(axis=1))
safe = finite(m_new)
l_new = l + np.exp(x - safe[:, None]).sum(axis=1)
