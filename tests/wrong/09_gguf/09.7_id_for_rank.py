"""Takes the id of the merged token for its rank, as tiktoken does: here ids have any order."""
table = {}
for line in merges:
    left, right = line.split(" ")
    merged = ids(left + right)
    if merged not in vocabulary.control_ids:
        table[ids(left), ids(right)] = merged, merged
