"""Leaves what writes."""
if kind == "weight" and stem in READS:
    return turned(get(name) * get(".".join((*layer, READS[stem], kind))), r, name)
