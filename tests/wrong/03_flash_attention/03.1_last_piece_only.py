"""Forgets the pieces before: the statistics of the last one."""
m_new = x.max(axis=1)
l_new = np.exp(x - finite(m_new)[:, None]).sum(axis=1)
