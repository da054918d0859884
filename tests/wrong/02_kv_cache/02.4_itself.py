"""Returns the cache itself."""
return self
