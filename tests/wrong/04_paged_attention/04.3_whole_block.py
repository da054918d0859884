"""Reads the whole of the last block, also slots that were never written."""
k = k_pages[table[i]].transpose(1, 0, 2)[:, None]
v = v_pages[table[i]].transpose(1, 0, 2)[:, None]
scores = mask.scores(q_heads @ k.swapaxes(-1, -2), rows, columns)
m, l, acc = update(m, l, acc, scores, v)
