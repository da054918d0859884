"""Sorts up and turns the list round: among equals the higher id comes first."""
order = np.argsort(logits, kind="stable")[::-1]
probabilities = softmax(logits[order])
before = np.cumsum(probabilities) - probabilities
kept = order[before < p]
