"""Gives the prefix cache nothing."""
sequence.table.truncate(share.position + len(drawn))
