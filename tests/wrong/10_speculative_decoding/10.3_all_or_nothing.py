"""Keeps a draft whole or not at all."""
found = [accept_or_replace(p[i], q[i], token, rng) for i, token in enumerate(proposed)]
if found == list(proposed):
    return [*found, draw(p[-1], rng)]
return found[:1]
