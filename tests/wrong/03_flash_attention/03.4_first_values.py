"""Counts the values from the first one in each tile."""
seen = mask.span(rows)
for columns in tiles(seen.start, seen.stop, block_k):
    scores = mask.scores(q_tile @ k[columns].T, rows, columns)
    m, l, acc = update(m, l, acc, scores, v[: scores.shape[1]])
