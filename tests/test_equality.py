"""The spine: greedy output never depends on the optimization.

With or without a cache, in one piece or in chunks, alone or in a batch, after a fork or a truncation, in pages of any size,
with a prefix that another request computed, swapped out and in, preempted and computed again, by an engine that serves
others meanwhile: the same tokens.
Later issues add their ways of computing the same thing to WAYS.
"""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm import LLM
from minillm.attention.flash import flash1_head, flash_attention
from minillm.attention.split_kv import split_kv_attention
from minillm.backends import get_backend
from minillm.cache import kinds
from minillm.cache.paged import move_to_store
from minillm.cache.prefix import HashPrefixCache
from minillm.cache.radix import RadixCache
from minillm.engine.engine import Engine
from minillm.errors import MiniLLMError, RequestError
from minillm.gateway.session import Part, Session
from minillm.metrics.events import CACHED, ENGINE, PREEMPTED
from minillm.model.generate import generate_tokens, prefill
from minillm.model.random_model import TINY, random_model
from minillm.model.sampling import SamplingParams
from minillm.model.transformer import Segment
from minillm.scheduler.scheduler import SchedulerConfig

NEW = 10


def prompts(tiny, count=3):
    """Token sequences of awkward lengths: 1, 7, 33, ..."""
    rng = np.random.default_rng(5)
    return [rng.integers(0, tiny.config.vocab_size, n).tolist() for n in (1, 7, 33, 64, 65)[:count]]


def greedy(tiny, prompt, **options):
    """The reference: one sequence, alone."""
    sequence = tiny.sequence(0, prompt, SamplingParams(max_tokens=NEW, ignore_eos=True))
    for _ in generate_tokens(tiny.transformer, tiny.tokenizer.eos_ids, [sequence], **options):
        pass
    return sequence.token_ids


def without_cache(tiny, prompts):
    return [greedy(tiny, p, use_cache=False) for p in prompts]


def batched(tiny, prompts):
    return [c.token_ids for c in tiny.generate(prompts, SamplingParams(max_tokens=NEW, ignore_eos=True))]


def chunked(tiny, prompts, chunk=5):
    out = []
    for prompt in prompts:
        cache, ids = tiny.transformer.new_cache(), list(prompt)
        for a in range(0, len(prompt), chunk):
            logits = tiny.transformer.forward([Segment(prompt[a : a + chunk], a, cache)])[0]
        for _ in range(NEW - 1):
            ids.append(int(logits[-1].argmax()))
            logits = tiny.transformer.forward([Segment(ids[-1:], cache.length, cache)])[0]
        out.append([*ids[len(prompt) :], int(logits[-1].argmax())])
    return out


def mixed(tiny, prompts):
    """Prefill of one sequence and decode of the others in the same step, as a server does."""
    caches, ids, logits = [], [], []
    for prompt in prompts:
        caches.append(tiny.transformer.new_cache())
        ids.append(list(prompt))
        step = [Segment(i[c.length :], c.length, c) for i, c in zip(ids, caches, strict=True)]
        for i, row in zip(ids, tiny.transformer.forward(step), strict=True):
            i.append(int(row[-1].argmax()))
    for _ in range(NEW):
        step = [Segment(i[c.length :], c.length, c) for i, c in zip(ids, caches, strict=True)]
        logits = tiny.transformer.forward(step)
        for i, row in zip(ids, logits, strict=True):
            i.append(int(row[-1].argmax()))
    return [i[len(p) : len(p) + NEW] for i, p in zip(ids, prompts, strict=True)]


def forked_and_truncated(tiny, prompts):
    """Go astray, come back; and go on in a copy while the original goes elsewhere."""
    out = []
    for prompt in prompts:
        cache = tiny.transformer.new_cache()
        if len(prompt) > 1:
            tiny.transformer.forward([Segment(prompt[:-1], 0, cache, "none")])
        tiny.transformer.forward([Segment([1, 2, 3], cache.length, cache, "none")])
        cache.truncate(len(prompt) - 1)
        other = cache.fork()
        tiny.transformer.forward([Segment([9, 8], cache.length, cache, "none")])
        sequence = tiny.sequence(0, prompt, SamplingParams(max_tokens=NEW, ignore_eos=True))
        sequence.cache = other
        for _ in generate_tokens(tiny.transformer, (), [sequence]):
            pass
        out.append(sequence.token_ids)
    return out


def with_attention(function):
    """The same model, with attention computed by another function."""

    def way(tiny, prompts):
        other = copy.copy(tiny)
        other.transformer = copy.copy(tiny.transformer)
        other.transformer.ops = tiny.transformer.ops.with_attention(function)
        return [greedy(other, p) for p in prompts]

    return way


ATTENTION = {
    "flash1": with_attention(lambda q, k, v: flash_attention(q, k, v, head=flash1_head, block_q=5, block_k=7)[0]),
    "flash2": with_attention(lambda q, k, v: flash_attention(q, k, v, block_q=16, block_k=16)[0]),
    "split_kv": with_attention(lambda q, k, v: split_kv_attention(q, k, v, 3)[0]),
    "numba_flash": with_attention(lambda q, k, v: get_backend("numba").attention(q, k, v)),
    "numba_split_kv": with_attention(lambda q, k, v: get_backend("numba").split_kv_attention(q, k, v, 3)[0]),
}


# --- pages --------------------------------------------------------------------------------------------------------------------


def new_store(llm, prompts, size=8, copies=1):
    """Pages for all of these at once, and some to spare."""
    blocks = sum(-(-(len(p) + NEW) // size) for p in prompts)
    return kinds.new_store(llm.config, llm.transformer.kv, copies * blocks + 4, size)


def go_on(llm, sequences, until=None):
    """Decode together until each has so many tokens."""
    until = until or NEW
    sequences = [s for s in sequences if len(s.token_ids) < until]
    steps = generate_tokens(llm.transformer, (), sequences)
    for _ in steps:
        if all(len(s.token_ids) >= until for s in sequences):
            break
    steps.close()
    return [s.token_ids for s in sequences]


def begin(llm, prompt, cache):
    return llm.sequence(0, prompt, SamplingParams(max_tokens=NEW, ignore_eos=True), cache=cache)


def paged(llm, prompts, size):
    """A batch on one store, whose blocks are dealt out in turn."""
    store = new_store(llm, prompts, size)
    sequences = [begin(llm, p, store.new_cache()) for p in prompts]
    out = go_on(llm, sequences)
    for sequence in sequences:
        sequence.cache.free()
    assert store.pool.num_free == store.pool.num_blocks
    return out


def prefix_hit(llm, prompts, kind, share, size=8):
    """An earlier request fills the cache: with other tokens, with the first half and then others, or with the very prompt."""
    store, out = new_store(llm, prompts, size, copies=3), []
    prefixes = kind(store.pool)
    for prompt in prompts:
        kept = int(share * len(prompt))
        before = prompt[:kept] + [(t + 1) % llm.config.vocab_size for t in prompt[kept:]]
        for ids in (before, prompt):
            blocks = prefixes.match(ids)
            if ids is prompt:
                reach = min(kept, len(prompt) - 1) // size
                assert len(blocks) == reach, "full blocks of what is shared are found, and never the last token's"
            cache = store.new_cache(blocks)
            sequence = begin(llm, ids, cache)
            tokens = go_on(llm, [sequence])[0]
            prefixes.commit((ids + tokens)[: cache.length], cache.table.blocks)
            cache.free()
        out.append(tokens)
    return out


def forked_on_pages(llm, prompts, size=8):
    """Samples of one prompt share its pages; here all three choose greedily, and a fourth goes astray."""
    out = []
    for prompt in prompts:
        store = new_store(llm, [prompt], size, copies=5)
        first = store.new_cache()
        if len(prompt) > 1:
            llm.transformer.forward([Segment(prompt[:-1], 0, first, "none")])
        caches = [first, *(first.fork() for _ in range(3))]
        llm.transformer.forward([Segment([1, 2, 3], len(prompt) - 1, caches.pop(), "none")])
        samples = go_on(llm, [begin(llm, prompt, c) for c in caches])
        assert samples[0] == samples[1] == samples[2]
        out.append(samples[2])
    return out


def swapped(llm, prompts, size=8):
    """Out to the host after 3 tokens, while others write all over the pages; in again, elsewhere."""
    store, host = new_store(llm, prompts, size), new_store(llm, prompts, size)
    sequences = [begin(llm, p, store.new_cache()) for p in prompts]
    go_on(llm, sequences, until=3)
    caches = [s.cache for s in sequences]
    move_to_store(caches, host)
    assert store.pool.num_free == store.pool.num_blocks
    store.k[:], store.v[:] = 7, 7
    in_the_way = store.new_cache()
    in_the_way.table.append(1)
    move_to_store(caches, store)
    host.k[:], host.v[:] = 9, 9
    return go_on(llm, sequences)


def preempted(llm, prompts, size=8):
    """After 3 tokens all pages are taken away. What was said is then as good as a prompt: it is computed again."""
    store = new_store(llm, prompts, size)
    sequences = [begin(llm, p, store.new_cache()) for p in prompts]
    go_on(llm, sequences, until=3)
    for sequence in sequences:
        sequence.cache.free()
    store.k[:], store.v[:] = 7, 7
    for sequence in reversed(sequences):
        sequence.cache = store.new_cache()
    return go_on(llm, sequences)


def session(llm, prompts, size=8, exact=True):
    """A prefix that ends within a block is kept, then read, then read by a prompt that ends with it."""
    out = []
    for prompt in prompts:
        kept = prompt[: max(1, 2 * len(prompt) // 3)]
        one = Session(llm, min_tokens=1, capacity=256, block_size=size)
        params = SamplingParams(max_tokens=NEW, ignore_eos=True)
        for rest in ([5, 6, 7], prompt[len(kept) :]):
            answer = one.generate([Part(kept, cache=True), Part(rest)], params)
        assert not exact or answer.usage.cache_read_tokens == min(len(kept), len(prompt) - 1)
        out.append(answer.completion.token_ids)
    return out


# --- the engine ---------------------------------------------------------------------------------------------------------------


def served(llm, given_prompts, *, n=1, crowd=0, twice=False, tight=False, invariant=False, **config):
    """By the engine, all together. crowd: so many others, of which half are cancelled on the way. twice: the same prompts
    once before. tight: a pool in which the answers cannot all be held at once. Returns the first answer of each."""
    size = config.pop("block_size", 2 if tight else 8)
    crowd = crowd if llm.config.n_layers < 10 else min(crowd, 2)  # the real model is slow in NumPy
    largest = max(len(p) // size + n * (-(-(len(p) + NEW) // size) - len(p) // size) for p in given_prompts)
    needed_at_first = sum(-(-len(p) // size) for p in given_prompts)
    blocks = max(largest, needed_at_first + 1) if tight else 4 * len(given_prompts) * largest + 12 * crowd
    limits = {"max_sequences": max(16, n), "watermark": 0, "host_blocks": 4 * blocks} | config
    engine, rng = Engine(llm, SchedulerConfig(blocks, size, **limits), invariant=invariant), np.random.default_rng(1)
    params = SamplingParams(max_tokens=NEW, ignore_eos=True)
    if twice:
        engine.generate(given_prompts, params)

    def others():
        lengths = rng.integers(1, 30, crowd // 2)
        return [engine.add(rng.integers(0, llm.config.vocab_size, k).tolist(), params) for k in lengths]

    crowd_of = others()
    requests = [engine.add(p, params, n=n) for p in given_prompts]
    crowd_of += others()
    answers = {r: engine.running[r].answers for r in requests}
    while engine.has_work:
        if crowd_of:
            engine.cancel(crowd_of.pop(int(rng.integers(len(crowd_of)))))
            crowd_of[-1:] = []
        engine.step()
    assert engine.scheduler.pool.num_free == blocks, "blocks in use at the end: 0"
    for own in answers.values():
        assert all(a.token_ids == own[0].token_ids for a in own), "greedy answers of one request agree"
    kinds = [e.kind for r in requests for e in engine.log.events_of(r)]
    assert not tight or len(requests) == 1 or kinds.count(PREEMPTED), "the pool was not tight: nothing was shown"
    assert not twice or max(map(len, given_prompts)) <= size or kinds.count(CACHED), "nothing was found in the cache"
    most = max(e.tokens for e in engine.log.events_of(ENGINE))
    assert most <= limits.get("max_tokens_per_step", 512)
    return [own[0].token_ids for own in answers.values()]


def one_by_one(llm, given_prompts, **options):
    """Each with an engine to itself."""
    return [served(llm, [p], **options)[0] for p in given_prompts]


SERVED = {
    "engine_alone": one_by_one,
    "engine_batched": served,
    "engine_blocks_of_1": partial(served, block_size=1),
    "engine_chunks_of_1": partial(one_by_one, max_sequences=1, max_tokens_per_step=1),
    "engine_chunks_of_16": partial(served, max_tokens_per_step=16),
    "engine_chunks_of_512": partial(served, max_tokens_per_step=512),
    "engine_static": partial(served, policy="static", max_sequences=2),
    "engine_orca": partial(served, policy="orca", max_tokens_per_step=80),
    "engine_vllm": partial(served, policy="vllm", max_tokens_per_step=80),
    "engine_recomputed": partial(served, tight=True, preemption="recompute"),
    "engine_swapped": partial(served, tight=True, preemption="swap"),
    "engine_hash": partial(served, twice=True, prefix="hash"),
    "engine_radix": partial(served, twice=True, prefix="radix"),
    "engine_recomputed_from_its_own_prefix": partial(served, tight=True, prefix="radix"),
    "engine_three_answers": partial(served, n=3, block_size=4),
    "engine_three_answers_preempted": partial(served, n=3, tight=True, preemption="swap"),
    "engine_cancelled_neighbours": partial(served, crowd=12),
    "engine_cancelled_neighbours_chunked": partial(served, crowd=12, max_tokens_per_step=20, prefix="hash"),
    "engine_invariant": partial(served, crowd=6, invariant=True),
}


PAGED = {f"paged_{size}": partial(paged, size=size) for size in (1, 8, 16, 256)}
HITS = {
    f"{kind.__name__}_{name}": partial(prefix_hit, kind=kind, share=share)
    for kind in (HashPrefixCache, RadixCache)
    for name, share in {"none": 0.0, "part": 0.5, "full": 1.0}.items()
}
ON_PAGES = PAGED | HITS | {f.__name__: f for f in (forked_on_pages, swapped, preempted, session)} | SERVED
WAYS = {f.__name__: f for f in (without_cache, batched, chunked, mixed, forked_and_truncated)} | ATTENTION | ON_PAGES


@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_the_same_tokens(tiny, way):
    given_prompts = prompts(tiny, count=5 if way in ON_PAGES else 3)
    assert WAYS[way](tiny, given_prompts) == [greedy(tiny, p) for p in given_prompts]


@pytest.fixture(scope="module")
def on_numba():
    """A model whose heads are as wide as the compiled kernels like them, and what NumPy says with the same weights."""
    config = replace(TINY, n_layers=2, d_model=96, n_heads=6, n_kv_heads=2, d_head=16, d_ff=64)
    ours, reference = (LLM(random_model(config, backend=name)) for name in ("numba", "numpy"))
    given_prompts = prompts(reference, count=5)
    return ours, given_prompts, [greedy(reference, p) for p in given_prompts]


@pytest.mark.parametrize("way", [None, *ON_PAGES])
def test_every_way_on_pages_gives_the_same_tokens_with_compiled_kernels(on_numba, way):
    llm, given_prompts, expected = on_numba
    assert (ON_PAGES[way](llm, given_prompts) if way else [greedy(llm, p) for p in given_prompts]) == expected


TEXTS = ("Once upon a time, in a small house by the sea, there lived a fox who could not", "The capital of France is")


@pytest.fixture(scope="module")
def few_tokens():
    """The real model is slow in NumPy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "NEW", 4)
        yield


@pytest.fixture(scope="module")
def said(few_tokens, smollm2):
    """Prompts, and what SmolLM2 says to each, alone, on the contiguous cache."""
    given_prompts = [smollm2.tokenizer.encode(text) for text in TEXTS]
    return given_prompts, [greedy(smollm2, p) for p in given_prompts]


SOON = {"paged_16", "RadixCache_part", "swapped", "engine_batched", "engine_chunks_of_16", "engine_three_answers_preempted"}


@pytest.mark.model
@pytest.mark.parametrize("way", [pytest.param(way, marks=[pytest.mark.slow] * (way not in SOON)) for way in ON_PAGES])
def test_every_way_on_pages_gives_the_same_tokens_on_smollm2(smollm2, said, way):
    given_prompts, expected = said
    batch = 1 if way in HITS else len(TEXTS)
    assert ON_PAGES[way](smollm2, given_prompts[:batch]) == expected[:batch]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_any_cut_of_a_prompt_gives_the_same_logits(tiny, pieces):
    ids = np.random.default_rng(1).integers(0, tiny.config.vocab_size, sum(pieces))
    whole = tiny.transformer.forward([Segment(ids, 0, tiny.transformer.new_cache(), "all")])[0]
    cache, parts, at = tiny.transformer.new_cache(), [], 0
    for n in pieces:
        parts.append(tiny.transformer.forward([Segment(ids[at : at + n], at, cache, "all")])[0])
        at += n
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=2e-5 * np.abs(whole).max())


def test_logits_are_given_where_they_are_asked_for(tiny):
    ids = prompts(tiny)[1]
    new = tiny.transformer.new_cache
    alls, last, none = tiny.transformer.forward(
        [Segment(ids, 0, new(), "all"), Segment(ids, 0, new(), "last"), Segment(ids, 0, new(), "none")]
    )
    assert alls.shape == (7, tiny.config.vocab_size) and last.shape == (1, tiny.config.vocab_size) and none.shape[0] == 0
    np.testing.assert_allclose(alls[-1:], last, atol=1e-5 * np.abs(last).max())
    assert tiny.transformer.forward([Segment(ids, 0, new(), "none")])[0].shape == (0, tiny.config.vocab_size)


def test_a_long_prompt_is_prefilled_in_chunks(tiny):
    steps = []

    class Counting:
        config, ops = tiny.config, tiny.transformer.ops

        def forward(self, segments):
            steps.append([len(s.tokens) for s in segments])
            return tiny.transformer.forward(segments)

        def logits(self, segments):
            return np.concatenate(self.forward(segments))

    sequence = tiny.sequence(0, prompts(tiny)[2])
    logits = prefill(Counting(), sequence, chunk=16)
    assert steps == [[16], [16], [1]]
    whole = tiny.transformer.forward([Segment(prompts(tiny)[2], 0, tiny.transformer.new_cache())])[0][-1]
    np.testing.assert_allclose(logits, whole, atol=2e-5 * np.abs(whole).max())


def test_a_seeded_draw_does_not_depend_on_the_rest_of_the_batch(tiny):
    many = prompts(tiny)
    params = SamplingParams(max_tokens=NEW, temperature=1.0, seed=3, ignore_eos=True)
    alone = [tiny.generate(p, params).token_ids for p in many]
    together = [c.token_ids for c in tiny.generate(many, params)]
    assert together == alone


@pytest.mark.parametrize(
    ("segment", "says"),
    [
        (lambda new: Segment([], 0, new()), "at least one token"),
        (lambda new: Segment([10**6], 0, new()), "1,000,000"),
        (lambda new: Segment([-1], 0, new()), "-1"),
        (lambda new: Segment([1], 3, new()), "position 3"),
        (lambda new: Segment([1], 0, new(), "some"), "'some'"),
        (lambda new: Segment([1] * 10_000, 0, new()), "10,000 tokens"),
    ],
)
def test_a_segment_that_makes_no_sense_is_refused_and_changes_nothing(tiny, segment, says):
    bad = segment(tiny.transformer.new_cache)
    with pytest.raises(MiniLLMError) as error:
        tiny.transformer.forward([bad])
    assert says in str(error.value) and bad.cache.length == 0


def test_a_cache_refuses_more_than_it_may_hold(tiny):
    cache = tiny.transformer.new_cache()
    with pytest.raises(RequestError, match="holds"):
        cache.reserve(cache.max_length + 1)
