"""Writes to the position: other sequences' blocks lie there."""
for pages, new in ((self.store.k, k), (self.store.v, v)):
    by_slot = pages[layer].reshape(-1, *new.shape[1:])
    by_slot[start:end] = new
self.lengths[layer] = end
