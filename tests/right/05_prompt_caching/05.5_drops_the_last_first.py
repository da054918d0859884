"""Drops the last token, then what fills no block."""
rest = list(tokens)[:-1]
while len(rest) % block_size:
    rest.pop()
return rest
