"""Keeps one array of used tokens for all: what one row says is held against another."""
key = (index,) if index else ()
rng = np.random.default_rng(np.random.SeedSequence(params.seed, spawn_key=key))
used = None
if params.repetition_penalty != 1.0:
    used = sampling_state.__dict__.setdefault("used", np.zeros(vocab_size, bool))
    used[prompt] = True
return rng, used
