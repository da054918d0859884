"""Asks which tokens occurred only at a penalty above 1: below 1 they are favoured, and that is to be known too."""
key = (index,) if index else ()
rng = np.random.default_rng(np.random.SeedSequence(params.seed, spawn_key=key))
used = None
if params.repetition_penalty > 1.0:
    used = np.zeros(vocab_size, bool)
    used[prompt] = True
return rng, used
