"""Sets back the first layer alone."""
self.lengths[0] = length
