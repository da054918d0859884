"""Appends until a draft was replaced."""
kept = []
for target, draft, token in zip(p, q, proposed):
    kept.append(accept_or_replace(target, draft, token, rng))
    if kept[-1] != token:
        return kept
kept.append(draw(p[len(proposed)], rng))
return kept
