"""Reads the values from the pages of the keys."""
filled = columns.stop - columns.start
k = k_pages[table[i], :filled].transpose(1, 0, 2)[:, None]
v = k_pages[table[i], :filled].transpose(1, 0, 2)[:, None]
scores = mask.scores(q_heads @ k.swapaxes(-1, -2), rows, columns)
m, l, acc = update(m, l, acc, scores, v)
