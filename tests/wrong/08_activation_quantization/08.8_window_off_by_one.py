"""Lets the last token of a group see its own group sealed."""
every = self.sealed(layer, open_group(end))
for position in range(start, end):
    group = open_group(position + 1)
    own = self.full(layer, group, position + 1) if group <= position else [a[:0] for a in every]
    seen = [np.concatenate([a[:group], b]) for a, b in zip(every, own, strict=True)]
    at = position - start
    out[at : at + 1] = ops.attention(q[at : at + 1], *ops.upload(seen))
