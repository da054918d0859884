"""Takes the table's length for the layer's: the table may have room that nothing fills yet."""
for pages, new in ((self.store.k, k), (self.store.v, v)):
    pages[layer].reshape(-1, *new.shape[1:])[slots] = new
self.lengths[layer] = self.table.length
