"""Multiplies by the gain after the rotation."""
if kind == "weight" and stem in READS:
    return turned(get(name), r, name) * get(".".join((*layer, READS[stem], kind)))
if kind == "weight" and stem in WRITES:
    return turned(get(name).T, r, name).T.copy()
