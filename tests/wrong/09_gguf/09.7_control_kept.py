"""Lets plain text become a control token."""
table = {}
for rank, line in enumerate(merges):
    left, right = line.split(" ")
    table[ids(left), ids(right)] = rank, ids(left + right)
