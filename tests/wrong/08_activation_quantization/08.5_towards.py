"""Lets ties go towards zero."""
half = (np.uint32(1) << (drop - np.uint32(1))) - np.uint32(1)
rounded = (bits + half) >> drop << drop
