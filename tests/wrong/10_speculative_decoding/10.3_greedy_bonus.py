"""Takes the likeliest token for the bonus."""
for i, token in enumerate(proposed):
    if (found := accept_or_replace(p[i], q[i], token, rng)) != token:
        return [*proposed[:i], found]
return [*proposed, int(p[-1].argmax())]
