"""Takes all visible keys as one tile: right, and fast memory holds a whole row of scores."""
seen = mask.span(rows)
if seen.stop > seen.start:
    scores = mask.scores(q_tile @ k[seen].T, rows, seen)
    m, l, acc = update(m, l, acc, scores, v[seen])
