"""Keeps l and acc and lets m go: each tile begins anew."""
filled = columns.stop - columns.start
k = k_pages[table[i], :filled].transpose(1, 0, 2)[:, None]
v = v_pages[table[i], :filled].transpose(1, 0, 2)[:, None]
scores = mask.scores(q_heads @ k.swapaxes(-1, -2), rows, columns)
_, l, acc = update(m, l, acc, scores, v)
