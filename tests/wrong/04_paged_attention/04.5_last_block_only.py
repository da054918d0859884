"""Takes all new tokens to be in the last block."""
size = self.store.pool.block_size
for pages, new in ((self.store.k, k), (self.store.v, v)):
    for i in range(len(new)):
        pages[layer, self.table.blocks[-1], (start + i) % size] = new[i]
self.lengths[layer] = end
