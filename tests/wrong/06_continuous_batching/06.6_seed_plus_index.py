"""Adds the index to the seed: neighbouring seeds share answers."""
rng = np.random.default_rng(None if params.seed is None else params.seed + index)
used = None
if params.repetition_penalty != 1.0:
    used = np.zeros(vocab_size, bool)
    used[prompt] = True
return rng, used
