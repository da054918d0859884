"""Drops the token that follows a draft kept whole."""
for i, token in enumerate(proposed):
    if (found := accept_or_replace(p[i], q[i], token, rng)) != token:
        return [*proposed[:i], found]
return list(proposed)
