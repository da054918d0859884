"""Reads each matrix once, as if the cache held all of them."""
return m * k + k * n + m * n
