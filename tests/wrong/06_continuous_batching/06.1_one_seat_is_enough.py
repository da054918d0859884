"""Takes one seat for a request, however many answers it has."""
if seats < 1:
    return None
lead, salt = group.live[0], group.request.salt
found = cache.match(lead.tokens[: lead.target], salt) if cache else []
need = group.blocks(pool.block_size) - len(found)
if pool.can_allocate(need) or (alone and need <= pool.num_free):
    return BlockTable(pool, found)
pool.release(found)
return None
