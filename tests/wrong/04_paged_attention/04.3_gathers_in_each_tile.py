"""Gathers all pages to cut one tile out of them, in every tile."""
filled = columns.stop - columns.start
k = k_pages[table].reshape(-1, kv_heads, d)[columns].transpose(1, 0, 2)[:, None]
v = v_pages[table].reshape(-1, kv_heads, d)[columns].transpose(1, 0, 2)[:, None]
scores = mask.scores(q_heads @ k.swapaxes(-1, -2), rows, columns)
m, l, acc = update(m, l, acc, scores, v)
