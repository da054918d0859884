"""Draws one more after a rejection."""
for i, token in enumerate(proposed):
    if (found := accept_or_replace(p[i], q[i], token, rng)) != token:
        return [*proposed[:i], found, draw(p[-1], rng)]
return [*proposed, draw(p[-1], rng)]
