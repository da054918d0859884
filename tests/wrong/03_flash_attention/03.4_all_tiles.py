"""Loads every tile, also those that the mask hides from all rows: right, and twice the work."""
for columns in tiles(0, mask.n_k, block_k):
    scores = mask.scores(q_tile @ k[columns].T, rows, columns)
    m, l, acc = update(m, l, acc, scores, v[columns])
