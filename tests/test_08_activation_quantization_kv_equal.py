"""The spine with quantized keys and values: greedy tokens do not depend on the way, for every format.

The ways are those of test_equality.py. Of KIVI blocks are whole groups, and prompts cross the edges of groups while they decode.
With ordinary kernels a number that stands exactly between two codes may fall either way, as its last bit depends on the batch; in
batch-invariant mode logits are equal to the bit.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import test_equality as spine
from kv_help import QUANTIZED

from minillm import LLM
from minillm.backends.invariant import invariant_model
from minillm.cache import kinds
from minillm.model.random_model import TINY, random_model
from minillm.model.transformer import Segment
from minillm.quantization.kivi import KIVI

SOON = (
    "chunked", "mixed", "paged_256", "RadixCache_part", "forked_on_pages", "swapped", "preempted", "engine_recomputed",
    "engine_three_answers_preempted", "engine_three_answers_recomputed",
)  # fmt: skip
ALONE = {f.__name__: f for f in (spine.without_cache, spine.batched, spine.chunked, spine.mixed, spine.forked_and_truncated)}
RECOMPUTED = {"engine_three_answers_recomputed": partial(spine.served, n=3, tight=True)}
WAYS = ALONE | spine.ON_PAGES | RECOMPUTED
SMALL_BLOCKS = {"paged_1", "paged_8", "paged_16", "engine_blocks_of_1"}


def ways(name):
    """The ways that a format has: KIVI's with blocks of one group or more."""
    if name not in KIVI:
        return WAYS
    found = {way: f for way, f in WAYS.items() if way not in SMALL_BLOCKS}
    for way, f in found.items():
        if way == "session":
            found[way] = partial(f, size=32, exact=False)
        elif way.startswith("engine"):
            found[way] = partial(f, block_size=32)
        elif way in spine.ON_PAGES and not way.startswith("paged"):
            found[way] = partial(f, size=32)
    return found


CASES = [
    pytest.param(name, way, marks=[pytest.mark.slow] * (way not in SOON), id=f"{name}-{way}")
    for name in QUANTIZED
    for way in ways(name)
]


def prompts(name, way):
    """Of awkward lengths, as in the spine; for KIVI such that all need another group while they decode, where memory is tight."""
    if name in KIVI and way.startswith("engine"):
        return [np.random.default_rng(n).integers(0, 500, n).tolist() for n in (25, 31, 30, 62, 58)]
    return [np.random.default_rng(n).integers(0, 500, n).tolist() for n in (1, 7, 33, 64, 65)]


def model(backend):
    return LLM(random_model(replace(TINY, n_layers=2, d_model=96, n_heads=6, n_kv_heads=2, d_head=16, d_ff=64), backend=backend))


@pytest.fixture(scope="module")
def small():
    return model("numpy")


@pytest.mark.parametrize(("name", "way"), CASES)
def test_every_way_gives_the_same_tokens(small, name, way):
    llm, given = LLM((small.transformer, small.tokenizer), kv=name), prompts(name, way)
    assert ways(name)[way](llm, given) == [spine.greedy(llm, p) for p in given]


NUMBA_WAYS = "mixed", "RadixCache_part", "swapped", "engine_chunks_of_16", "engine_three_answers_preempted"


@pytest.fixture(scope="module")
def on_numba():
    return model("numba")


@pytest.mark.parametrize("way", NUMBA_WAYS)
@pytest.mark.parametrize("name", ["int8", "int4", "rot4", "kivi2"])
def test_every_way_gives_the_same_tokens_with_compiled_kernels(small, on_numba, name, way):
    reference, ours = (LLM((one.transformer, one.tokenizer), kv=name) for one in (small, on_numba))
    given = prompts(name, way)
    assert ways(name)[way](ours, given) == [spine.greedy(reference, p) for p in given]


# --- to the bit ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUANTIZED)
def test_logits_are_the_same_bits_whole_in_chunks_on_pages_and_beside_others(small, name):
    model = invariant_model(small.transformer).with_kv(name)
    ids, other = (np.random.default_rng(seed).integers(0, 500, 110) for seed in (0, 1))
    whole = model.forward([Segment(ids, 0, model.new_cache(), "all")])[0]
    store = kinds.new_store(model.config, name, 20, 32, model.ops)
    for cache in (model.new_cache(), store.new_cache()):
        beside, found, at = store.new_cache(), [], 0
        for n in (1, 30, 2, 40, 31, 6):
            step = [Segment(other[at : at + n], at, beside), Segment(ids[at : at + n], at, cache, "all")]
            found.append(model.forward(step)[1])
            at += n
        assert np.array_equal(np.concatenate(found), whole)
