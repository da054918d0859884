"""Answers with the same seed take turns at one generator: what runs beside one changes its text."""
key = (index,) if index else ()
made = sampling_state.__dict__.setdefault("generators", {})
rng = made.setdefault((params.seed, index), np.random.default_rng(np.random.SeedSequence(params.seed, spawn_key=key)))
used = None
if params.repetition_penalty != 1.0:
    used = np.zeros(vocab_size, bool)
    used[prompt] = True
return rng, used
