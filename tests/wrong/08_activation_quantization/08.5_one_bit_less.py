"""Keeps one bit too few."""
drop = drop + np.uint32(1)
half = (np.uint32(1) << (drop - np.uint32(1))) - np.uint32(1)
rounded = (bits + half + (bits >> drop & np.uint32(1))) >> drop << drop
