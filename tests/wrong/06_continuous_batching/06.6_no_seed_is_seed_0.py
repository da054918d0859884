"""Takes seed 0 where no seed is given."""
key = (index,) if index else ()
rng = np.random.default_rng(np.random.SeedSequence(params.seed or 0, spawn_key=key))
used = None
if params.repetition_penalty != 1.0:
    used = np.zeros(vocab_size, bool)
    used[prompt] = True
return rng, used
