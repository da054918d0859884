"""Sorts from the unlikeliest up and keeps the tail."""
order = np.argsort(logits, kind="stable")
probabilities = softmax(logits[order])
before = np.cumsum(probabilities) - probabilities
kept = order[before < p]
