"""Lets ties go to the odd neighbour."""
half = (np.uint32(1) << (drop - np.uint32(1))) - np.uint32(1)
rounded = (bits + half + (~(bits >> drop) & np.uint32(1))) >> drop << drop
