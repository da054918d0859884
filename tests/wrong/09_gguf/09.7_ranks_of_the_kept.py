"""Counts only the merges that are kept, so that ranks shift."""
table = {}
for line in merges:
    left, right = line.split(" ")
    merged = ids(left + right)
    if merged not in vocabulary.control_ids:
        table[ids(left), ids(right)] = len(table), merged
