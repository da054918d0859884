"""Puts the own group before the sealed ones."""
for group in range(open_group(start), end, GROUP):
    first, last = max(start, group), min(end, group + GROUP)
    seen = [np.concatenate([b, a[:group]]) for a, b in zip(sealed, self.full(layer, group, last), strict=True)]
    span = slice(first - start, last - start)
    out[span] = ops.attention(q[span], *ops.upload(seen))
