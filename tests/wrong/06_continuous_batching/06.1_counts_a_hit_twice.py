"""Asks before it matches: idle blocks count as found, and as free."""
if len(group.live) > seats:
    return None
lead, salt = group.live[0], group.request.salt
tokens = lead.tokens[: lead.target]
hit = cache.cached_length(tokens, salt) // pool.block_size if cache else 0
need = group.blocks(pool.block_size) - hit
if pool.can_allocate(need) or (alone and need <= pool.num_free):
    return BlockTable(pool, cache.match(tokens, salt) if cache else [])
return None
