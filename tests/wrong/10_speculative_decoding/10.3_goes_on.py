"""Goes on after a rejection."""
return [accept_or_replace(p[i], q[i], token, rng) for i, token in enumerate(proposed)] + [draw(p[-1], rng)]
