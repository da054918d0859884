"""Takes the next power of two, and puts empty rows behind the old ones."""
if capacity < tokens:
    wanted = FIRST_CAPACITY
    while wanted < tokens:
        wanted *= 2
    more = min(wanted, self.max_length) - capacity
    empty = np.zeros((self.layers, more, self.kv_heads, self.d_head), self.dtype)
    self.k, self.v = np.concatenate([self.k, empty], axis=1), np.concatenate([self.v, empty], axis=1)
