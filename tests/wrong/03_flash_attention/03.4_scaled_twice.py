"""Divides by √d again: q_tile has been already."""
seen = mask.span(rows)
for columns in tiles(seen.start, seen.stop, block_k):
    scores = mask.scores(q_tile @ k[columns].T * scale, rows, columns)
    m, l, acc = update(m, l, acc, scores, v[columns])
