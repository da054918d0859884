"""Asks for 20 GB and touches every page."""
return np.ones(20 * 2**30 // 8)
