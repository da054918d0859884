"""Masks each tile as if it held the first keys."""
seen = mask.span(rows)
for columns in tiles(seen.start, seen.stop, block_k):
    scores = q_tile @ k[columns].T
    scores = mask.scores(scores, rows, slice(0, scores.shape[1]))
    m, l, acc = update(m, l, acc, scores, v[columns])
