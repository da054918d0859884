"""Splits at any run of spaces, and accepts what is no merge."""
table = {}
for rank, line in enumerate(merges):
    left, right = line.split()
    merged = ids(left + right)
    if merged not in vocabulary.control_ids:
        table[ids(left), ids(right)] = rank, merged
