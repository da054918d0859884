"""Matches first and then finds no seat: the matched blocks stay its own, and are lost."""
lead, salt = group.live[0], group.request.salt
found = cache.match(lead.tokens[: lead.target], salt) if cache else []
if len(group.live) > seats:
    return None
need = group.blocks(pool.block_size) - len(found)
if pool.can_allocate(need) or (alone and need <= pool.num_free):
    return BlockTable(pool, found)
pool.release(found)
return None
