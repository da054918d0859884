"""Forgets the gain of the norm."""
if kind == "weight" and stem in READS:
    return turned(get(name), r, name)
if kind == "weight" and stem in WRITES:
    return turned(get(name).T, r, name).T.copy()
