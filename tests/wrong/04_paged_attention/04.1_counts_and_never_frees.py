"""Counts the owners and never gives the block back."""
self.refs[block] -= 1
