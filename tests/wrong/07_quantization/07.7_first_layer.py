"""Takes the gains of layer 0."""
if kind == "weight" and stem in READS:
    return turned(get(name) * get(f"blk.0.{READS[stem]}.weight"), r, name)
if kind == "weight" and stem in WRITES:
    return turned(get(name).T, r, name).T.copy()
