"""Rounds up."""
rounded = (bits + (np.uint32(1) << drop) - np.uint32(1)) >> drop << drop
