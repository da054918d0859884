"""Keeps an array of the vocabulary for every answer, also where no penalty needs it."""
key = (index,) if index else ()
rng = np.random.default_rng(np.random.SeedSequence(params.seed, spawn_key=key))
used = np.zeros(vocab_size, bool)
used[prompt] = True
return rng, used
