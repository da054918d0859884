"""Spaces the levels evenly: int4."""
levels = np.linspace(-1, 1, 16)
