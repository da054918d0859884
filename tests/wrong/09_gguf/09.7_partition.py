"""Splits at the first space, and takes the rest for one token."""
table = {}
for rank, line in enumerate(merges):
    left, _, right = line.partition(" ")
    merged = ids(left + right)
    if merged not in vocabulary.control_ids:
        table[ids(left), ids(right)] = rank, merged
