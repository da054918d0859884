"""Takes n_k modulo the block size for what is filled, in every block: 0 at a block's edge."""
filled = n_k % size
k = k_pages[table[i], :filled].transpose(1, 0, 2)[:, None]
v = v_pages[table[i], :filled].transpose(1, 0, 2)[:, None]
scores = mask.scores(q_heads @ k.swapaxes(-1, -2), rows, columns)
m, l, acc = update(m, l, acc, scores, v)
