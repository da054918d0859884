"""Divides by the gain."""
if kind == "weight" and stem in READS:
    return turned(get(name) / get(".".join((*layer, READS[stem], kind))), r, name)
if kind == "weight" and stem in WRITES:
    return turned(get(name).T, r, name).T.copy()
