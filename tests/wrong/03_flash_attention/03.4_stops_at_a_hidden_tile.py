"""Ends at the first tile that is hidden: with a window the first ones are, and what is seen comes after them."""
for columns in tiles(0, mask.n_k, block_k):
    if mask.hides_all(rows, columns):
        break
    scores = mask.scores(q_tile @ k[columns].T, rows, columns)
    m, l, acc = update(m, l, acc, scores, v[columns])
