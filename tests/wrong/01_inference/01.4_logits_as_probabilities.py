"""Cumulates logits instead of probabilities."""
order = np.argsort(-logits, kind="stable")
probabilities = logits[order]
before = np.cumsum(probabilities) - probabilities
kept = order[before < p]
