"""Gives the last merge the first rank."""
table = {}
for rank, line in enumerate(reversed(merges)):
    left, right = line.split(" ")
    merged = ids(left + right)
    if merged not in vocabulary.control_ids:
        table[ids(left), ids(right)] = rank, merged
