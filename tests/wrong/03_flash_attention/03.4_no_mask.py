"""Skips what is hidden as a whole, and masks nothing inside a tile."""
seen = mask.span(rows)
for columns in tiles(seen.start, seen.stop, block_k):
    m, l, acc = update(m, l, acc, q_tile @ k[columns].T, v[columns])
