"""Forgets that a chunk of queries may not see its own future."""
filled = columns.stop - columns.start
k = k_pages[table[i], :filled].transpose(1, 0, 2)[:, None]
v = v_pages[table[i], :filled].transpose(1, 0, 2)[:, None]
scores = q_heads @ k.swapaxes(-1, -2)
m, l, acc = update(m, l, acc, scores, v)
