"""Advances every layer's length with the first one's append."""
for pages, new in ((self.store.k, k), (self.store.v, v)):
    by_slot = pages[layer].reshape(-1, *new.shape[1:])
    by_slot[slots] = new
self.lengths = [end] * len(self.lengths)
