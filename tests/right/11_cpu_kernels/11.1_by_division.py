"""Counts how many pairs a word holds."""
each = 16 // bits
register, within = divmod(column // 2, each)
return 32 * register + 2 * lane + (column & 1), within * bits
