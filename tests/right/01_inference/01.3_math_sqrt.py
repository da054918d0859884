"""Divides by math's root, a Python float, which widens nothing; and multiplies a mask of 0 and -inf in by adding it."""
n_q, n_k = q.shape[-2], k.shape[-2]
hidden = np.where(causal_mask(n_q, n_k), np.float32(0), np.float32(-np.inf))
return softmax(q @ k.swapaxes(-1, -2) / float(q.shape[-1]) ** 0.5 + hidden) @ v
