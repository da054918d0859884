"""Drops the token that crosses p; with a confident model nothing is left."""
order = np.argsort(-logits, kind="stable")
probabilities = softmax(logits[order])
before = np.cumsum(probabilities)
kept = order[before < p]
