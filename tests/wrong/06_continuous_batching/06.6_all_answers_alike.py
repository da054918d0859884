"""Draws all n answers from the same numbers."""
key = ()
rng = np.random.default_rng(np.random.SeedSequence(params.seed, spawn_key=key))
used = None
if params.repetition_penalty != 1.0:
    used = np.zeros(vocab_size, bool)
    used[prompt] = True
return rng, used
