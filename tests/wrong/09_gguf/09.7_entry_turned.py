"""Gives the merged id first and the rank second."""
table = {}
for rank, line in enumerate(merges):
    left, right = line.split(" ")
    merged = ids(left + right)
    if merged not in vocabulary.control_ids:
        table[ids(left), ids(right)] = merged, rank
