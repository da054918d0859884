"""Goes on from the length of the whole cache, which a layer that is ahead has passed."""
for pages, new in ((self.store.k, k), (self.store.v, v)):
    pages[layer].reshape(-1, *new.shape[1:])[slots] = new
self.lengths[layer] = self.length + len(k)
