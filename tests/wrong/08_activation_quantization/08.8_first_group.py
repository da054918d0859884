"""Leaves out the groups behind the first."""
for group in range(open_group(start), open_group(start) + 1, GROUP):
    first, last = max(start, group), min(end, group + GROUP)
    seen = [np.concatenate([a[:group], b]) for a, b in zip(sealed, self.full(layer, group, last), strict=True)]
    span = slice(first - start, last - start)
    out[span] = ops.attention(q[span], *ops.upload(seen))
