"""Begins each tile with a fresh state: only the last counts."""
seen = mask.span(rows)
for columns in tiles(seen.start, seen.stop, block_k):
    scores = mask.scores(q_tile @ k[columns].T, rows, columns)
    m, l, acc = update(*fresh_state(q_tile), scores, v[columns])
