"""Multiplies the weights, and divides nothing."""
changed = {name: getattr(weights, name) * scales for name in fold.matrices}
