"""Asks for blocks that are in the cache already."""
if len(group.live) > seats:
    return None
lead, salt = group.live[0], group.request.salt
found = cache.match(lead.tokens[: lead.target], salt) if cache else []
need = group.blocks(pool.block_size)
if pool.can_allocate(need) or (alone and need <= pool.num_free):
    return BlockTable(pool, found)
pool.release(found)
return None
