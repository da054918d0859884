"""Keeps the rejected draft, and forgets its replacement."""
for i, token in enumerate(proposed):
    if (found := accept_or_replace(p[i], q[i], token, rng)) != token:
        return list(proposed[: i + 1])
return [*proposed, draw(p[-1], rng)]
