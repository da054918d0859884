"""Takes positions in the sorted list for token ids."""
order = np.argsort(-logits, kind="stable")
probabilities = softmax(logits[order])
before = np.cumsum(probabilities) - probabilities
kept = np.flatnonzero(before < p)
