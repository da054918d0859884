"""Takes the new exponentials under the old maximum."""
m_new = np.maximum(m, x.max(axis=1))
l_new = l * np.exp(m - finite(m_new)) + np.exp(x - finite(m)[:, None]).sum(axis=1)
