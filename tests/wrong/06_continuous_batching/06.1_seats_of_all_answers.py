"""Wants a seat for every answer that was asked for, also for those that have ended."""
if group.request.n > seats:
    return None
lead, salt = group.live[0], group.request.salt
found = cache.match(lead.tokens[: lead.target], salt) if cache else []
need = group.blocks(pool.block_size) - len(found)
if pool.can_allocate(need) or (alone and need <= pool.num_free):
    return BlockTable(pool, found)
pool.release(found)
return None
