"""Subtracts -inf from -inf where a row has seen nothing."""
m_new = np.maximum(m, x.max(axis=1))
l_new = l * np.exp(m - m_new) + np.exp(x - m_new[:, None]).sum(axis=1)
