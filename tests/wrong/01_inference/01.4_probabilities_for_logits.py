"""Calls the probabilities logits, and so returns probabilities where logits belong."""
logits = softmax(logits)
order = np.argsort(-logits, kind="stable")
before = np.cumsum(logits[order]) - logits[order]
kept = order[before < p]
