"""Uses a cumulative sum of rounded sizes."""
ends = np.cumsum([padded(n, alignment) for n in sizes], dtype=int).tolist()
found = [0, *ends][: len(ends)]
