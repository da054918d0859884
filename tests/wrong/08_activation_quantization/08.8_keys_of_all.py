"""Shows the queries of a group those that come after it."""
for group in range(open_group(start), end, GROUP):
    first, last = max(start, group), min(end, group + GROUP)
    seen = [np.concatenate([a[:group], b]) for a, b in zip(sealed, self.full(layer, group, end), strict=True)]
    span = slice(first - start, last - start)
    out[span] = ops.attention(q[span], *ops.upload(seen))
