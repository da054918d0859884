"""Takes the norm of attention for all matrices."""
if kind == "weight" and stem in READS:
    return turned(get(name) * get(".".join((*layer, "attn_norm", kind))), r, name)
if kind == "weight" and stem in WRITES:
    return turned(get(name).T, r, name).T.copy()
