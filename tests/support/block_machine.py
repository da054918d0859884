"""A machine that does to blocks what a server does, in any order, beside a model that knows no blocks.

The model: a sequence is a plain list of facts, one a token. A fact depends on its token and all before it, as keys and values
do, so a prefix hit that is not one shows. Memory is one plain list of slots for each pool; copies and writes are carried out
in it exactly as BlockTable asks. After every step each sequence must read its own facts back from there.
"""

from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from minillm.cache.block_pool import BlockPool
from minillm.cache.block_table import BlockTable, swap
from minillm.errors import BlockError, OutOfBlocks, RequestError

SIZE, BLOCKS, HOST_BLOCKS, CROWD = 2, 20, 9, 6
anyone = st.integers(0, 999)
some_tokens = st.lists(st.integers(0, 1), min_size=1, max_size=9)


def pool_state(pool):
    """All that a pool knows, to compare before and after."""
    return list(pool.refs), list(pool.blank), list(pool.idle), set(pool.kept)


class Sequence:
    def __init__(self, table, salt, tokens=()):
        self.table, self.salt, self.tokens = table, salt, list(tokens)

    @property
    def facts(self):
        fact, facts = hash(self.salt), []
        for token in self.tokens:
            fact = hash((fact, token))
            facts.append(fact)
        return facts


class BlockMachine(RuleBasedStateMachine):
    """Subclasses say new_cache(pool) and cached_blocks(cache), and check their own structure."""

    steps = 0

    def __init__(self):
        super().__init__()
        self.pool, self.host = BlockPool(BLOCKS, SIZE), BlockPool(HOST_BLOCKS, SIZE)
        self.cache = self.new_cache(self.pool)
        self.memory = {self.pool: [None] * BLOCKS * SIZE, self.host: [None] * HOST_BLOCKS * SIZE}
        self.sequences = []

    # --- help -------------------------------------------------------------------------------------------------------------

    def chosen(self, number, pool=None):
        """One of the sequences (of those in a pool), or None where there is none."""
        those = [s for s in self.sequences if pool in (None, s.table.pool)]
        return those[number % len(those)] if those else None

    def everything(self):
        tables = [(s.table, list(s.table.blocks), s.table.length) for s in self.sequences]
        return pool_state(self.pool), pool_state(self.host), tables, sorted(self.cached_blocks())

    def refused(self, *errors):
        machine, before = self, self.everything()

        class Refused:
            def __enter__(self):
                self.raises = pytest.raises(errors)
                self.raises.__enter__()

            def __exit__(self, *what):
                done = self.raises.__exit__(*what)
                assert machine.everything() == before, "an operation that raised has changed something"
                return done

        return Refused()

    def grow(self, sequence, tokens):
        """Append if there is room, and say so; if there is none, see that nothing changes."""
        table, pool = sequence.table, sequence.table.pool
        needed, total = table.blocks_for(len(tokens)), -(-(table.length + len(tokens)) // SIZE)
        if needed > pool.num_free or total > pool.num_blocks:
            with self.refused(RequestError if max(needed, total) > pool.num_blocks else OutOfBlocks):
                table.append(len(tokens))
            return False
        free = pool.num_free
        slots, copies = table.append(len(tokens))
        assert free - pool.num_free == needed - len([pair for pair in copies if not pool.refs[pair[0]]])
        memory = self.memory[pool]
        for source, target in copies:
            memory[target * SIZE : (target + 1) * SIZE] = memory[source * SIZE : (source + 1) * SIZE]
        sequence.tokens += tokens
        for slot, fact in zip(slots, sequence.facts[-len(tokens) :], strict=True):
            assert pool.refs[slot // SIZE] == 1, f"slot {slot} lies in a block that {pool.refs[slot // SIZE]} sequences own"
            assert slot // SIZE not in pool.kept, f"slot {slot} lies in a block that the cache remembers"
            memory[slot] = fact
        return True

    # --- what a server does -----------------------------------------------------------------------------------------------

    def admit(self, tokens, salt, look=True):
        blocks = self.cache.match(tokens, salt) if look else []
        assert len(blocks) * SIZE < len(tokens), "a hit must leave the last token to be computed"
        sequence = Sequence(BlockTable(self.pool, blocks), salt, tokens[: len(blocks) * SIZE])
        if self.grow(sequence, tokens[len(blocks) * SIZE :]):
            self.sequences.append(sequence)
        else:
            self.cache.release(blocks)

    @initialize(prompts=st.lists(some_tokens, min_size=2, max_size=4))
    def begin(self, prompts):
        for tokens in prompts:
            self.admit(tokens, None)

    @precondition(lambda self: len(self.sequences) < CROWD)
    @rule(tokens=some_tokens, salt=st.sampled_from([None, None, None, "b"]))
    def arrive(self, tokens, salt):
        self.admit(tokens, salt)

    @precondition(lambda self: 0 < len(self.sequences) < CROWD)
    @rule(number=anyone, extra=some_tokens, look=st.booleans())
    def arrive_with_a_known_beginning(self, number, extra, look):
        """Without a look into the cache it computes what another is computing at the same time: duplicates."""
        sequence = self.chosen(number)
        self.admit(sequence.tokens + extra[:3], sequence.salt, look)

    @precondition(lambda self: self.sequences)
    @rule(number=anyone, tokens=some_tokens)
    def append(self, number, tokens):
        self.grow(self.chosen(number), tokens[:5])

    @precondition(lambda self: self.chosen(0, self.pool))
    @rule(number=anyone, tokens=some_tokens)
    def append_and_commit(self, number, tokens):
        sequence = self.chosen(number, self.pool)
        if self.grow(sequence, tokens[:5]):
            self.cache.commit(sequence.tokens, sequence.table.blocks, sequence.salt)

    @precondition(lambda self: self.chosen(0, self.pool))
    @rule(number=anyone)
    def commit(self, number):
        sequence = self.chosen(number, self.pool)
        before, free = len(self.pool.kept), self.pool.num_free
        new = self.cache.commit(sequence.tokens, sequence.table.blocks, sequence.salt)
        assert (len(self.pool.kept) - before, self.pool.num_free >= free) == (new, True)
        again = self.cache.commit(sequence.tokens, sequence.table.blocks, sequence.salt)
        assert again == 0, "what is registered is not registered again"

    @precondition(lambda self: 0 < len(self.sequences) < CROWD)
    @rule(number=anyone)
    def fork(self, number):
        sequence = self.chosen(number)
        self.sequences.append(Sequence(sequence.table.fork(), sequence.salt, sequence.tokens))

    @precondition(lambda self: self.sequences)
    @rule(number=anyone, length=st.integers(0, 30))
    def truncate(self, number, length):
        sequence = self.chosen(number)
        self.cut(sequence, length % (len(sequence.tokens) + 1))

    def cut(self, sequence, length):
        sequence.table.truncate(length)
        del sequence.tokens[length:]

    @precondition(lambda self: self.sequences)
    @rule(number=anyone, back=st.integers(1, 4), tokens=some_tokens)
    def reject_a_draft(self, number, back, tokens):
        """Take back a few tokens, perhaps committed ones, and go on differently."""
        sequence = self.chosen(number)
        self.cut(sequence, max(0, len(sequence.tokens) - back))
        self.grow(sequence, tokens[:3])

    @precondition(lambda self: self.sequences)
    @rule(number=anyone)
    def finish(self, number):
        sequence = self.chosen(number)
        self.sequences.remove(sequence)
        sequence.table.free()
        for use in (sequence.table.free, sequence.table.fork, lambda: sequence.table.append(1)):
            with self.refused(BlockError):
                use()

    @precondition(lambda self: self.chosen(0, self.pool))
    @rule(number=anyone)
    def preempt(self, number):
        """Free it, and compute it again: what is still cached is a hit."""
        sequence = self.chosen(number, self.pool)
        self.sequences.remove(sequence)
        sequence.table.free()
        if sequence.tokens:
            self.admit(sequence.tokens, sequence.salt)

    @precondition(lambda self: self.sequences)
    @rule(number=anyone, others=st.integers(0, 2), out=st.booleans())
    def swap(self, number, others, out):
        source, target = (self.pool, self.host) if out else (self.host, self.pool)
        there = [s for s in self.sequences if s.table.pool is source]
        tables = [s.table for s in (there[number % (len(there) or 1) :] + there)[: min(len(there), others + 1)]]
        if len({block for table in tables for block in table.blocks}) > target.num_free:
            with self.refused(OutOfBlocks, RequestError):
                swap(tables, target)
            return
        for here, there in swap(tables, target):
            self.memory[target][there * SIZE : (there + 1) * SIZE] = self.memory[source][here * SIZE : (here + 1) * SIZE]

    @precondition(lambda self: self.pool.idle)
    @rule(n=st.integers(0, 4))
    def evict(self, n):
        idle, free = len(self.pool.idle), self.pool.num_free
        assert self.cache.evict(n) == min(n, idle), "every idle block can be evicted"
        assert (len(self.pool.idle), self.pool.num_free) == (max(0, idle - n), free), "an idle block was free before"

    @precondition(lambda self: self.pool.idle)
    @rule()
    def fill_to_the_brim(self):
        """All that counts as free can be had, whatever is remembered in it."""
        blocks = [self.pool.allocate() for _ in range(self.pool.num_free)]
        with self.refused(OutOfBlocks):
            self.pool.allocate()
        self.pool.release(blocks)
        for block in blocks:
            self.memory[self.pool][block * SIZE : (block + 1) * SIZE] = [None] * SIZE

    @rule(block=st.integers(-2, BLOCKS + 1))
    def misuse(self, block):
        if not 0 <= block < BLOCKS or not self.pool.refs[block]:
            for use in (self.pool.free, self.pool.writable, self.pool.keep, lambda b: self.pool.release([b])):
                with self.refused(BlockError):
                    use(block)

    # --- what must hold after each step -----------------------------------------------------------------------------------

    @invariant()
    def every_sequence_reads_its_own_facts(self):
        type(self).steps += 1
        for sequence in self.sequences:
            table, memory = sequence.table, self.memory[sequence.table.pool]
            assert table.length == len(sequence.tokens)
            assert [memory[slot] for slot in table.slots(0, table.length)] == sequence.facts
            assert len(table.blocks) == -(-table.length // SIZE), "blocks beyond what the tokens need"

    @invariant()
    def blocks_are_conserved_and_counted(self):
        for pool in (self.pool, self.host):
            owners = Counter(block for s in self.sequences if s.table.pool is pool for block in s.table.blocks)
            assert pool.refs == [owners[block] for block in range(pool.num_blocks)], "reference count = owners"
            assert len(pool.blank) + len(pool.idle) + len(owners) == pool.num_blocks, "a block is lost, or in two places"
            assert set(pool.blank) | set(pool.idle) | set(owners) == set(range(pool.num_blocks))
            assert set(pool.idle) <= pool.kept and not pool.kept & set(pool.blank)
        assert set(self.cached_blocks()) == self.pool.kept, "the cache and the pool disagree on what is remembered"

    @invariant()
    def structure_holds(self):
        self.check_structure()
