"""Writes every layer into the pages of the first."""
for pages, new in ((self.store.k, k), (self.store.v, v)):
    by_slot = pages[0].reshape(-1, *new.shape[1:])
    by_slot[slots] = new
self.lengths[layer] = end
