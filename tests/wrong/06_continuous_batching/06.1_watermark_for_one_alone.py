"""Keeps the watermark free for others who are not there."""
if len(group.live) > seats:
    return None
lead, salt = group.live[0], group.request.salt
found = cache.match(lead.tokens[: lead.target], salt) if cache else []
need = group.blocks(pool.block_size) - len(found)
if pool.can_allocate(need):
    return BlockTable(pool, found)
pool.release(found)
return None
