"""Counts whole tiles and loses the tail."""
seen = mask.span(rows)
for i in range((seen.stop - seen.start) // block_k):
    columns = slice(seen.start + i * block_k, seen.start + (i + 1) * block_k)
    scores = mask.scores(q_tile @ k[columns].T, rows, columns)
    m, l, acc = update(m, l, acc, scores, v[columns])
