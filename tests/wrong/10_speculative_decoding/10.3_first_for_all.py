"""Judges all drafts by the first distribution."""
for i, token in enumerate(proposed):
    if (found := accept_or_replace(p[0], q[i], token, rng)) != token:
        return [*proposed[:i], found]
return [*proposed, draw(p[-1], rng)]
