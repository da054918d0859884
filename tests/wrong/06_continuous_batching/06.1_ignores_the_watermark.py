"""Admits all that fits: running groups have nothing left to grow by."""
if len(group.live) > seats:
    return None
lead, salt = group.live[0], group.request.salt
found = cache.match(lead.tokens[: lead.target], salt) if cache else []
need = group.blocks(pool.block_size) - len(found)
if need <= pool.num_free:
    return BlockTable(pool, found)
pool.release(found)
return None
