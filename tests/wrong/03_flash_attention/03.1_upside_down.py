"""Turns the factor around: exp(m' - m) grows what should shrink."""
m_new = np.maximum(m, x.max(axis=1))
safe = finite(m_new)
l_new = l * np.exp(safe - finite(m)) + np.exp(x - safe[:, None]).sum(axis=1)
