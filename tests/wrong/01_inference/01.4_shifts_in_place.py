"""Takes the maximum off the caller's logits in place, for an exponential that cannot overflow."""
logits -= logits.max()
order = np.argsort(-logits, kind="stable")
weights = np.exp(logits[order])
before = (np.cumsum(weights) - weights) / weights.sum()
kept = order[before < p]
