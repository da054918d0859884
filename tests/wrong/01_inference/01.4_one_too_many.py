"""Keeps the first token after p is reached as well."""
order = np.argsort(-logits, kind="stable")
probabilities = softmax(logits[order])
before = np.cumsum(probabilities) - probabilities
kept = order[: np.sum(before < p) + 1]
