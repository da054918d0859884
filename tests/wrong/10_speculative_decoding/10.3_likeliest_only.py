"""Keeps drafts that are the target's first choice: greedy only."""
for i, token in enumerate(proposed):
    if (found := int(p[i].argmax())) != token:
        return [*proposed[:i], found]
return [*proposed, draw(p[-1], rng)]
