"""Stores the keys in both arrays."""
for pages, new in ((self.store.k, k), (self.store.v, k)):
    by_slot = pages[layer].reshape(-1, *new.shape[1:])
    by_slot[slots] = new
self.lengths[layer] = end
