"""Takes the transpose of R for what reads."""
if kind == "weight" and stem in READS:
    return turned(get(name) * get(".".join((*layer, READS[stem], kind))), r.T, name)
if kind == "weight" and stem in WRITES:
    return turned(get(name).T, r, name).T.copy()
