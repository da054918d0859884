"""Both prefix caches under everything that a server does, in any order: 8,000 steps, 31,000 if slow (block_machine)."""

import pytest
from block_machine import SIZE, BlockMachine
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from minillm.cache.policies import LRU, GreedyDual
from minillm.cache.prefix import HashPrefixCache
from minillm.cache.radix import RadixCache

EXAMPLES, LONG, STEPS = 64, 250, 60  # for each of the machines


class HashMachine(BlockMachine):
    new_cache = HashPrefixCache

    def cached_blocks(self):
        return self.cache.by_block

    def check_structure(self):
        cache = self.cache
        assert len(cache.by_name) == len(cache.by_block)
        for block, entry in cache.by_block.items():
            assert cache.by_name[entry.name] is entry and entry.block == block and len(entry.tokens) == SIZE
            if entry.parent:
                assert cache.by_block.get(entry.parent.block) is entry.parent, "a beginning was evicted before what follows it"
                assert self.pool.refs[entry.parent.block] >= bool(self.pool.refs[block])


class CollidingMachine(HashMachine):
    """Names that forget the parent and the salt: many blocks have the same."""

    def new_cache(self, pool):
        return HashPrefixCache(pool, hasher=lambda key: hash(key[1]))


class RadixMachine(BlockMachine):
    policy = LRU

    def new_cache(self, pool):
        return RadixCache(pool, self.policy())

    def cached_blocks(self):
        return self.cache.home

    def check_structure(self):
        cache, waiting, pages = self.cache, {(ticket, id(node)) for _, ticket, node in self.cache.queue}, 0
        nodes = [cache.root]
        for node in nodes:
            for key, child in node.children.items():
                nodes.append(child)
                assert child.parent is node and child.key == key and child.start == node.start + len(node.pages)
                assert key[1:] == tuple(child.tokens[:SIZE]) and len(child.tokens) == len(child.pages) * SIZE > 0
            in_use = [self.pool.refs[page] > 0 for page in node.pages]
            assert in_use == sorted(in_use, reverse=True), "below an idle page lies one in use"
            assert all(cache.home[page] is node for page in node.pages)
            assert not node.pages or not node.parent.pages or self.pool.refs[node.parent.pages[-1]] >= in_use[0]
            if node.pages and not node.children and not in_use[-1]:
                assert (node.ticket, id(node)) in waiting, "an idle leaf that eviction will never find"
            pages += len(node.pages)
        assert pages == len(cache.home)


class CostMachine(RadixMachine):
    @staticmethod
    def policy():
        return GreedyDual(even=3)


MACHINES = [HashMachine, CollidingMachine, RadixMachine, CostMachine]


@pytest.mark.parametrize("examples", [EXAMPLES, pytest.param(LONG, marks=pytest.mark.slow)])
@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.__name__)
def test_whatever_happens_every_sequence_reads_its_own_past(machine, examples):
    machine.steps = 0
    rounds = settings(max_examples=examples, stateful_step_count=STEPS, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(machine, settings=rounds)
    assert machine.steps >= 31 * examples, f"{machine.steps:,} steps are too few to have met everything"
