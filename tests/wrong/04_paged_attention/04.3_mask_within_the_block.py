"""Masks by the place in the block instead of the place in the sequence."""
filled = columns.stop - columns.start
k = k_pages[table[i], :filled].transpose(1, 0, 2)[:, None]
v = v_pages[table[i], :filled].transpose(1, 0, 2)[:, None]
scores = mask.scores(q_heads @ k.swapaxes(-1, -2), rows, slice(0, filled))
m, l, acc = update(m, l, acc, scores, v)
