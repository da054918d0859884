"""Draws the bonus from q."""
for i, token in enumerate(proposed):
    if (found := accept_or_replace(p[i], q[i], token, rng)) != token:
        return [*proposed[:i], found]
return [*proposed, draw(q[-1] if len(q) else p[-1], rng)]
