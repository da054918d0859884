"""Turns the inputs of what writes, where they fit."""
if kind == "weight" and stem in READS:
    return turned(get(name) * get(".".join((*layer, READS[stem], kind))), r, name)
if kind == "weight" and stem in WRITES:
    return turned(get(name), r, name) if get(name).shape[1] == len(r) else get(name)
