"""Keeps texts as keys, where ids are looked up."""
table = {}
for rank, line in enumerate(merges):
    left, right = line.split(" ")
    merged = ids(left + right)
    if merged not in vocabulary.control_ids:
        table[left, right] = rank, merged
