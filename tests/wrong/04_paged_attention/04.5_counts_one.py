"""Counts one token however many came."""
for pages, new in ((self.store.k, k), (self.store.v, v)):
    by_slot = pages[layer].reshape(-1, *new.shape[1:])
    by_slot[slots] = new
self.lengths[layer] = start + 1
