"""Returns an array of a thousand billion elements that takes eight bytes."""
return np.lib.stride_tricks.as_strided(np.zeros(1), (10**6, 10**6), (0, 0))
