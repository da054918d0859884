"""Keeps a share p of the vocabulary, whatever its probability."""
order = np.argsort(-logits, kind="stable")
kept = order[: max(1, int(p * len(logits)))]
