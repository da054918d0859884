"""Owns what it matched though it must wait: the blocks are lost."""
if len(group.live) > seats:
    return None
lead, salt = group.live[0], group.request.salt
found = cache.match(lead.tokens[: lead.target], salt) if cache else []
need = group.blocks(pool.block_size) - len(found)
if pool.can_allocate(need) or (alone and need <= pool.num_free):
    return BlockTable(pool, found)
return None
