"""Picks the sequence's blocks with an index array and writes into that copy."""
size = self.store.pool.block_size
for pages, new in ((self.store.k, k), (self.store.v, v)):
    mine = pages[layer][self.table.blocks].reshape(-1, *new.shape[1:])
    mine[start:end] = new
self.lengths[layer] = end
