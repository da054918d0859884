"""Seeds NumPy's global generator, which the whole process shares."""
np.random.seed(params.seed)
rng = np.random
used = None
if params.repetition_penalty != 1.0:
    used = np.zeros(vocab_size, bool)
    used[prompt] = True
return rng, used
