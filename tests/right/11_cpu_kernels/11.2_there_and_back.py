"""Walks down one column of a group and up the next, and sorts instead of looping."""
group = room - 2

def key(tile):
    i, j = tile
    return i // group, j, i if j % 2 == 0 else -i

order = sorted([(i, j) for i in range(rows) for j in range(columns)], key=key)
