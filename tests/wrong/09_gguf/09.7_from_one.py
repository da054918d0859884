"""Counts ranks from 1."""
table = {}
for rank, line in enumerate(merges, 1):
    left, right = line.split(" ")
    merged = ids(left + right)
    if merged not in vocabulary.control_ids:
        table[ids(left), ids(right)] = rank, merged
