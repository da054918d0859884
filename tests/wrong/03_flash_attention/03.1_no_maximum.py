"""Sums the bare exponentials: right until one overflows."""
m_new = np.maximum(m, x.max(axis=1))
l_new = l * np.exp(finite(m)) + np.exp(x).sum(axis=1)
l_new = l_new / np.exp(finite(m_new))
