"""Takes the table's last block for the sequence's last: a table may have blocks that hold nothing yet."""
filled = n_k - i * size if i == len(table) - 1 else size
k = k_pages[table[i], :filled].transpose(1, 0, 2)[:, None]
v = v_pages[table[i], :filled].transpose(1, 0, 2)[:, None]
seen = np.arange(i * size, i * size + filled) <= np.arange(n_k - n_q, n_k)[:, None]
scores = np.where(seen, q_heads @ k.swapaxes(-1, -2), np.float32(-np.inf))
m, l, acc = update(m, l, acc, scores, v)
