"""Scores by the last use: that is LRU."""
return node.last_use
