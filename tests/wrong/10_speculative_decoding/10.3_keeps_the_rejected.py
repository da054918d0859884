"""Keeps the rejected draft, before its replacement."""
for i, token in enumerate(proposed):
    if (found := accept_or_replace(p[i], q[i], token, rng)) != token:
        return [*proposed[: i + 1], found]
return [*proposed, draw(p[-1], rng)]
