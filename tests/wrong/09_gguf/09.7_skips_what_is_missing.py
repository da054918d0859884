"""Skips a merge whose tokens are missing, in silence."""
table = {}
for rank, line in enumerate(merges):
    left, right = line.split(" ")
    merged = ids(left + right)
    if merged is not None and merged not in vocabulary.control_ids:
        table[ids(left), ids(right)] = rank, merged
