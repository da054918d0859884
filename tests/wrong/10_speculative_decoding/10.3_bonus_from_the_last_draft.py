"""Draws the bonus from the distribution of the last draft."""
for i, token in enumerate(proposed):
    if (found := accept_or_replace(p[i], q[i], token, rng)) != token:
        return [*proposed[:i], found]
return [*proposed, draw(p[len(proposed) - 1], rng)]
