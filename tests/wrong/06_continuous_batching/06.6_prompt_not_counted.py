"""Does not count the tokens of the prompt as used."""
key = (index,) if index else ()
rng = np.random.default_rng(np.random.SeedSequence(params.seed, spawn_key=key))
used = None
if params.repetition_penalty != 1.0:
    used = np.zeros(vocab_size, bool)
return rng, used
