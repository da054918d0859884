"""Judges each draft by the distribution behind it."""
for i, token in enumerate(proposed):
    if (found := accept_or_replace(p[i + 1], q[i], token, rng)) != token:
        return [*proposed[:i], found]
return [*proposed, draw(p[-1], rng)]
