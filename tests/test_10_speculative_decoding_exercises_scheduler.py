"""Exercises of lesson 10 in the scheduler: drafts that were rejected leave no trace, and drafts take only what is left."""

import mistakes_speculation as mistakes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scheduler_help import NOBODYS, attempt, loop, request

from minillm.cache.block_table import BlockTable
from minillm.course.checks import check_close, exercise
from minillm.scheduler.request import Request, SequenceGroup
from minillm.scheduler.scheduler import Scheduler, SchedulerConfig
from minillm.scheduler.step import PlanBuilder

SIZE = 4  # tokens of a block
ROOMY = {"num_blocks": 100, "block_size": SIZE, "max_sequences": 4, "max_tokens_per_step": 64, "watermark": 0}


def guessing(right, wrong, *requests, **config):
    """A loop in which each step proposes so many tokens that are right, and then so many that are wrong."""
    made = loop(guesses=lambda id, length: (right, wrong), **(ROOMY | config))
    for one in requests:
        made.add(one)
    return made


# --- 10.5 ---------------------------------------------------------------------------------------------------------------


def verified(prompt, right, wrong, **config):  # -> loop, its sequence, words
    """A request of which one step has verified so many drafts."""
    made = guessing(right, wrong, request(1, prompt=prompt, max_tokens=50), **config)
    story = f"{prompt} tokens computed, then the next one and {right + wrong} drafts, of which the first {right} are kept"
    made.step()
    attempt(story, made.step)
    return made, next(iter(made.scheduler.sequences.values())), story


@exercise("10.5", points=2, hint=(
    "Which tokens of the share are text, and which never will be? How many does the table hold then?",
    "From share.position on stand the token drawn last, then the drafts that were kept: as many as were drawn in this step.",
    "sequence.table.truncate(share.position + len(drawn)).",
))  # fmt: skip
@given(prompt=st.integers(1, 9), right=st.sampled_from([3, 2, 4, 1, 0]), wrong=st.sampled_from([5, 2, 3, 1, 0]))
def test_the_table_holds_what_was_kept_and_nothing_else(prompt, right, wrong):
    if right + wrong == 0:
        return
    made, sequence, story = verified(prompt, right, wrong)
    whole = prompt + 1 + right + wrong
    lengths = {
        "rejected drafts are still in the table": whole,
        "what was drawn in place of the first rejected one is not computed yet, and counts": prompt + right + 2,
        "the drafts that were kept are thrown away too: they are computed": prompt + 1,
        "one kept token too few is left": prompt + right,
        "all tokens of the step are thrown away": prompt,
        "so many are taken off as were kept, and not as were rejected": whole - right,
    }
    check_close(sequence.table.length, prompt + 1 + right, rtol=0, atol=0, what=f"{story}: the length of the table",
                mistakes=lambda: lengths)  # fmt: skip
    used, blocks = made.scheduler.pool.num_blocks - made.scheduler.pool.num_free, -(-(prompt + 1 + right) // SIZE)
    told = f"{story}: {prompt + 1 + right} tokens lie in {blocks} blocks of {SIZE}, found {used} in use"
    assert used == blocks == len(sequence.table.blocks), f"{told}; table.truncate frees what holds nothing else"


@exercise("10.5", points=1, hint="Blocks that drafts filled are as good as others, once drafts are text: give commit `drawn`.")
@pytest.mark.parametrize("prefix", ["hash", "radix"])
@pytest.mark.parametrize("right", [2, 3, 6, 7])
def test_blocks_that_kept_drafts_have_filled_reach_the_prefix_cache(prefix, right):
    made, sequence, story = verified(4, right, 2, prefix=prefix)
    full = (4 + 1 + right) // SIZE * SIZE
    found = made.scheduler.cache.cached_length([*sequence.tokens[: 4 + 1 + right], NOBODYS + 1])
    told = f"{story}: {full} tokens fill whole blocks, and a request that begins with them finds {found} cached"
    assert found >= full, f"{told}: drafts that were kept are text, and `drawn` has them"


@exercise("10.5", points=2, hint=(
    "A block is full of what was computed: is that what the text says, at its last position?",
    "First truncate, then commit: commit looks at table.length to see which blocks are full.",
))  # fmt: skip
@pytest.mark.parametrize("prefix", ["hash", "radix"])
@pytest.mark.parametrize("prompt", [4, 5, 6, 7])
def test_the_prefix_cache_gets_no_block_that_holds_a_rejected_draft(prefix, prompt):
    right = 2
    made, sequence, story = verified(prompt, right, 6, prefix=prefix)
    kept = prompt + 1 + right
    tokens, full = sequence.tokens, kept // SIZE * SIZE
    for text, whose in (([*tokens, 0], "the text itself, the token drawn last included"),
                        ([*tokens[:kept], *[NOBODYS] * 6, 0], "the text with the rejected drafts")):  # fmt: skip
        found = made.scheduler.cache.cached_length(text)
        told = f"{story}: {kept} tokens are computed and kept, {full} of them in full blocks"
        assert found <= full, f"{told}; of {whose}, {found} are found cached: one block holds what a rejected draft computed"


@exercise("10.5", points=1, hint="Run it by hand: what does the next step feed, and at which position?")
@pytest.mark.parametrize("prefix", ["hash", "radix", None])
def test_a_crowd_whose_drafts_are_mostly_wrong_says_what_it_would_say_without(prefix):
    made = loop(guesses=lambda id, length: (length % 4, length % 3), num_blocks=14, block_size=2, max_sequences=3,
                policy="chunked", max_tokens_per_step=16, watermark=0, prefix=prefix)  # fmt: skip
    for i in range(4):
        made.add(request(i, prompt=[1, 2, 3, 1, i % 2], max_tokens=12))
    steps = 0
    while made.scheduler.has_work and steps < 300:
        attempt(f"in step {steps} of four requests with drafts", made.step)
        steps += 1
    ended, free = len(made.outcome), made.scheduler.pool.num_free
    told = f"after {steps} steps {ended} of 4 have ended and {free} of 14 blocks are free"
    assert ended == 4 and free == 14, f"{told}: all should be"
    assert made.kept >= 15 and made.rejected >= 5, f"{made.kept} drafts were kept and {made.rejected} rejected, expected 15 and 5"


# --- 10.6 ---------------------------------------------------------------------------------------------------------------


def crowd(shapes, spare, watermark, left):  # [(tokens computed, drafts, room)] -> the PlanBuilder of a step, its sequences
    """Requests that decode, each with drafts; so many blocks are free, and so many tokens left, once each has got its one."""
    held = [-(-(length + 1) // SIZE) for length, _, _ in shapes]
    limits = {"max_sequences": len(shapes), "max_tokens_per_step": left + len(shapes)}
    scheduler = Scheduler(SchedulerConfig(sum(held) + spare, SIZE, watermark=watermark, **limits))
    for id, (length, drafts, room) in enumerate(shapes):
        group = SequenceGroup(Request(id, [id + 10] * length, room + 1))
        (sequence,) = group.live
        sequence.tokens.append(50 + id)
        sequence.drafts = [100 * (id + 1) + i for i in range(drafts)]
        sequence.table = BlockTable(scheduler.pool)
        sequence.table.append(length)
        scheduler.groups[id], scheduler.sequences[sequence.id] = group, sequence
        scheduler.running.append(group)
    step = PlanBuilder(scheduler)
    step.schedule_running()
    return step, list(scheduler.sequences.values())


def check_taken(shapes, spare, watermark, left):
    """Add drafts to a step; see who got how many, and whether plan and tables agree."""
    free = f"{left} tokens of the step are left, {spare} blocks are free, {watermark} of them to stay so"
    story = f"requests of (tokens, drafts, tokens they may still draw) {shapes}, {free}"
    given_ = [(length + 1, drafts, room) for length, drafts, room in shapes], spare, watermark, left, SIZE
    right, wrong = np.array(mistakes.drafts_taken(*given_)), mistakes.taken_mistakes(*given_)
    step, sequences = crowd(shapes, spare, watermark, left)
    attempt(story, step.add_drafts)
    shares = step.plan.shares
    found = np.array([int(share.drafts) for share in shares])
    check_close(found, right, rtol=0, atol=0, what=f"{story}: the row of drafts that each verifies", mistakes=lambda: wrong)
    for share, sequence, n in zip(shares, sequences, right.tolist(), strict=True):
        name, length = f"{story}: request {sequence.id.request}, which verifies {n}", len(sequence.tokens) + n
        tokens = [sequence.tokens[-1], *sequence.drafts[:n]]
        assert share.tokens == tokens, f"{name}, computes {tokens}: its own token and its first drafts; found {share.tokens}"
        assert sequence.table.length == length, f"{name}, needs slots for {length} tokens; its table has {sequence.table.length}"
        blocks = sequence.table.blocks
        assert share.blocks == blocks, f"{name}: its table has the blocks {blocks}, the share {share.blocks}"
        assert share.blocks is not blocks, f"{name}: a plan is a record: copy the blocks, or they change with the table"
    rest = left - int(right.sum())
    assert step.left == rest, f"{story}: {rest} tokens are left then, found {step.left}"


shape = st.tuples(st.integers(1, 9), st.sampled_from([5, 3, 7, 1, 0]), st.sampled_from([20, 20, 4, 2, 1]))


@exercise("10.6", points=3, hint=(
    "A draft takes a token of the step and perhaps a block. Who may want these instead, and may a draft ever be in the way?",
    "n = min(len(drafts), room less the one token that follows, self.left); then fewer, while the pool has no blocks.",
    "while n > 0 and not self.pool.can_allocate(table.blocks_for(n)): n -= 1. Then table.append(n), the share, self.left.",
))  # fmt: skip
@settings(max_examples=150)
@example([(1, 7, 20), (2, 7, 20), (4, 4, 3)], 2, 1, 30)  # in these two, mistakes look different from each other
@example([(1, 7, 20), (2, 7, 20), (4, 4, 3)], 9, 0, 6)
@given(st.lists(shape, min_size=2, max_size=4), st.integers(1, 6), st.integers(0, 1), st.integers(0, 14))
def test_drafts_take_what_is_left_of_tokens_and_blocks(shapes, spare, watermark, left):
    check_taken(shapes, spare, watermark, left)


@exercise("10.6", points=1, hint="A check of n drafts yields up to n + 1 tokens; max_tokens allows sequence.room of them.")
@given(room=st.integers(1, 6), drafts=st.integers(1, 8))
def test_no_draft_goes_beyond_the_last_token(room, drafts):
    check_taken([(6, drafts, room)], 9, 0, 20)


def steps_of(right, wrong, **config):
    made = guessing(right, wrong, *(request(i, prompt=6, max_tokens=41) for i in range(3)), **config)
    attempt(f"three answers of 41 tokens, {right} drafts right and {wrong} wrong in each step", lambda: run(made))
    return made


def run(made):
    while made.scheduler.has_work and made.steps < 400:
        made.step()


@exercise("10.6", points=2, hint="Three drafts of four are kept, so a step brings four tokens: how many steps is that for 41?")
def test_steps_are_saved_and_nobody_is_preempted_for_a_draft():
    """Counted: an answer of 41 tokens takes 41 steps without drafts, and 1 + 40 / 4 where three of four drafts are kept."""
    plain, drafted = steps_of(0, 0), steps_of(3, 1)
    told = f"three answers of 41 tokens: {plain.steps} steps without drafts, {drafted.steps} with four, of which three are kept"
    assert (plain.steps, drafted.steps) == (41, 11), f"{told}; expected 41 and 11"
    narrow = {"num_blocks": 36, "max_sequences": 3, "watermark": 2}
    plain, drafted = steps_of(0, 0, **narrow), steps_of(3, 1, **narrow)
    told = f"in a pool of 36 blocks, just enough for three: {plain.preempted} preempted without drafts, {drafted.preempted} with"
    assert drafted.preempted <= plain.preempted, f"{told}: a guess must not cost anybody its place"
    assert drafted.steps < plain.steps / 2, f"{told}; {plain.steps} and {drafted.steps} steps: less than half is expected"
