"""Writes in place though others own the block."""
return block, None
