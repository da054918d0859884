"""Admits a group that would be alone, whether it fits or not."""
if len(group.live) > seats:
    return None
lead, salt = group.live[0], group.request.salt
found = cache.match(lead.tokens[: lead.target], salt) if cache else []
need = group.blocks(pool.block_size) - len(found)
if pool.can_allocate(need) or alone:
    return BlockTable(pool, found)
pool.release(found)
return None
