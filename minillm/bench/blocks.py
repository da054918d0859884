"""How fast the bookkeeping is, in pure Python: a scheduler does a handful of these operations a request and step.

A server of a hundred requests that decodes thirty steps a second takes a new block of 16 tokens about 200 times a second.
What is measured here is hundreds of times that; bookkeeping is no reason to leave Python.
"""

import random
import time
from collections.abc import Callable
from typing import Any

from minillm import terminal
from minillm.cache.block_pool import BlockPool
from minillm.cache.block_table import BlockTable
from minillm.cache.prefix import HashPrefixCache
from minillm.cache.radix import RadixCache

STEMS, PROMPT, NEW = 50, 512, 64  # prompts: the beginning of one of 50 stems, then tokens of their own


def pool_operations(pairs: int = 180_000) -> float:  # -> operations a minute
    """Allocate a block, free it."""
    pool, start = BlockPool(4096, 16), time.perf_counter()
    for _ in range(pairs):
        pool.free(pool.allocate())
    return 2 * pairs / (time.perf_counter() - start) * 60


def sequence_operations(make_cache: Callable, requests: int = 3000, seed: int = 0) -> float:  # -> operations a minute
    """Match, append, commit, fork, append to the fork (a copy on write or a new block), free, free: seven a request."""
    rng = random.Random(seed)
    stems = [[rng.randrange(50_000) for _ in range(PROMPT)] for _ in range(STEMS)]
    prompts = [rng.choice(stems)[: rng.randrange(NEW, PROMPT)] + [rng.randrange(50_000) for _ in range(NEW)]
               for _ in range(requests)]  # fmt: skip
    pool = BlockPool(20_000, 16)
    cache, start = make_cache(pool), time.perf_counter()
    for prompt in prompts:
        table = BlockTable(pool, cache.match(prompt))
        table.append(len(prompt) - table.length)
        cache.commit(prompt, table.blocks)
        fork = table.fork()
        fork.append(1)
        table.free()
        fork.free()
    return 7 * requests / (time.perf_counter() - start) * 60


def run(requests: int = 3000) -> dict[str, Any]:
    return {
        "allocate_free_per_minute": pool_operations(60 * requests),
        "hash_chain_per_minute": sequence_operations(HashPrefixCache, requests),
        "radix_tree_per_minute": sequence_operations(RadixCache, requests),
    }


def table(result: dict[str, Any]) -> str:
    names = {
        "allocate_free_per_minute": "allocate and free, a block each",
        "hash_chain_per_minute": "match, append, commit, fork, free of sequences of 8 to 36 blocks: hash chain",
        "radix_tree_per_minute": "the same with a radix tree",
    }
    return terminal.table(["operations a minute", ""], [[f"{result[key]:,.0f}", name] for key, name in names.items()], "><")
