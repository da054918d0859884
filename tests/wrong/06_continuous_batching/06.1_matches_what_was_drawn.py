"""Begins with tokens that the lead drew: the others have drawn other ones."""
if len(group.live) > seats:
    return None
lead, salt = group.live[0], group.request.salt
found = cache.match(lead.tokens, salt) if cache else []
need = group.blocks(pool.block_size) - len(found)
if pool.can_allocate(need) or (alone and need <= pool.num_free):
    return BlockTable(pool, found)
pool.release(found)
return None
