"""Masks each tile as if it held the first queries."""
seen = mask.span(rows)
for columns in tiles(seen.start, seen.stop, block_k):
    scores = mask.scores(q_tile @ k[columns].T, slice(0, len(q_tile)), columns)
    m, l, acc = update(m, l, acc, scores, v[columns])
