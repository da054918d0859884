"""Lets the first token of a group see the group before in full."""
for position in range(start, end):
    group = open_group(max(0, position - 1))
    seen = [np.concatenate([a[:group], b]) for a, b in zip(sealed, self.full(layer, group, position + 1), strict=True)]
    at = position - start
    out[at : at + 1] = ops.attention(q[at : at + 1], *ops.upload(seen))
