"""Takes the first q for all drafts."""
for i, token in enumerate(proposed):
    if (found := accept_or_replace(p[i], q[0], token, rng)) != token:
        return [*proposed[:i], found]
return [*proposed, draw(p[-1], rng)]
