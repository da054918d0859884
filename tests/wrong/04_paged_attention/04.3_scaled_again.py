"""Divides the scores by √d although the queries are divided already."""
filled = columns.stop - columns.start
k = k_pages[table[i], :filled].transpose(1, 0, 2)[:, None]
v = v_pages[table[i], :filled].transpose(1, 0, 2)[:, None]
scores = mask.scores(q_heads @ k.swapaxes(-1, -2) / np.sqrt(np.float32(d)), rows, columns)
m, l, acc = update(m, l, acc, scores, v)
