"""Looks up the first slot and runs on from there, past the block's edge into the neighbour."""
for pages, new in ((self.store.k, k), (self.store.v, v)):
    by_slot = pages[layer].reshape(-1, *new.shape[1:])
    by_slot[slots[0] : slots[0] + len(new)] = new
self.lengths[layer] = end
