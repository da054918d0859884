"""Exercises of lesson 01: the layers, one head of attention, top-p, the cost of a token, TPOT, the loop that generates."""

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import mistakes
import numpy as np
import oracles
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minillm.attention.naive import attention_head
from minillm.course.checks import answers, check_close, draws, exercise, seeds
from minillm.layers import rms_norm, rope, rope_angles, rope_frequencies
from minillm.metrics import events
from minillm.metrics.events import ARRIVED, TOKEN, Event, EventLog
from minillm.model.generate import SequenceState, generate_tokens
from minillm.model.params import SamplingParams
from minillm.model.presets import PRESETS, preset
from minillm.model.sampling import keep_top_p

# --- 01.1 -----------------------------------------------------------------------------------------------------------


@exercise(
    "01.1",
    points=1,
    hint=(
        "Of an array of many vectors: over which axis does one vector's mean go, and what shape must it keep to divide by it?",
        "The mean of the squares, np.mean(x * x, axis=-1, keepdims=True): no mean is subtracted first.",
        "x / np.sqrt(mean_square + eps) * weight.",
    ),
)
@given(seed=seeds, rows=st.integers(1, 5), d=st.sampled_from([1, 2, 7, 64]), scale=st.sampled_from([1e-3, 1.0, 50.0]))
def test_each_vector_is_divided_by_its_root_mean_square(seed, rows, d, scale):
    x, weight = draws(seed, (rows, d), (d,))
    x = (x * scale).astype(np.float32)
    expected, found = oracles.rms_norm(x, weight, 1e-5), rms_norm(x.copy(), weight, 1e-5)
    ways = lambda: mistakes.rms_norm(x, weight, 1e-5)  # noqa: E731
    check_close(found, expected, what=f"rms_norm of {(rows, d)}", mistakes=ways, dtype=np.float32)


@exercise("01.1", points=1, hint="eps goes under the root, beside the mean: it matters when the vector is small.")
def test_eps_keeps_zeros_at_zero_and_small_vectors_small():
    check_close(rms_norm(np.zeros((2, 4), np.float32), np.ones(4, np.float32), 1e-5), np.zeros((2, 4)), what="rms_norm(zeros)")
    tiny = np.full((1, 4), 1e-3, np.float32)
    expected, found = oracles.rms_norm(tiny, np.ones(4), 1e-5), rms_norm(tiny.copy(), np.ones(4, np.float32), 1e-5)
    check_close(found, expected, what="rms_norm(1e-3)", mistakes=lambda: mistakes.rms_norm(tiny, np.ones(4), 1e-5))


@exercise(
    "01.1",
    points=1,
    hint=(
        "Only the last axis is a vector: queries come as (tokens, heads, d).",
        "The input belongs to the caller: build a new array.",
    ),
)
def test_rms_norm_works_on_each_head_of_a_stack_and_leaves_it_as_it_was():
    x, weight = draws(4, (3, 2, 8), (8,))
    before = x.copy()
    expected = oracles.rms_norm(x.reshape(6, 8), weight, 1e-6).reshape(3, 2, 8)

    def over(axis, words):
        return {words: x / np.sqrt((x.astype(np.float64) ** 2).mean(axis, keepdims=True) + 1e-6) * weight}

    ways = over(1, "the mean goes over axis 1, the heads: it belongs to the last axis (axis=-1)")
    ways |= over((1, 2), "one mean is taken for all heads of a token: each head has its own (axis=-1)")
    found = rms_norm(x, weight, 1e-6)
    given = "x after the call, which must be as the caller gave it (rms_norm(x) returns a new array),"
    check_close(x, before, rtol=0, atol=0, what=given)
    check_close(found, expected, what="rms_norm of (3, 2, 8)", mistakes=lambda: ways)


# --- 01.2 -----------------------------------------------------------------------------------------------------------


def turned(x, positions, base, interleaved):
    cos, sin = rope_angles(positions, rope_frequencies(x.shape[-1], base))
    return rope(x, cos, sin, interleaved)


def mirrored(right, second):  # (tokens, heads, d), where the second components are -> {words: (tokens, heads, d)}
    signs = np.ones(right.shape[-1])
    signs[second] = -1
    return {"the second component has the other sign: that mirrors a pair; turned, it is a sin + b cos": right * signs}


@exercise(
    "01.2",
    points=1,
    hint=(
        "Which two components turn together, and which angle do all heads of one token share?",
        "cos and sin are (tokens, d/2), x is (tokens, heads, d): cos[:, None, :] gives every head of a token its angle.",
        "A pair (a, b) becomes (a cos - b sin, a sin + b cos). Interleaved, a is x[..., 0::2] and b is x[..., 1::2].",
    ),
)
@given(seed=seeds, tokens=st.integers(1, 4), heads=st.integers(1, 3), d=st.sampled_from([2, 4, 6, 16]), start=st.integers(0, 900))
def test_interleaved_pairs_are_turned_by_position_times_frequency(seed, tokens, heads, d, start):
    x, positions = draws(seed, (tokens, heads, d)), np.arange(start, start + tokens)
    expected, out = oracles.rope(x, positions, 10000.0, interleaved=True), turned(x.copy(), positions, 10000.0, True)
    ways = lambda: mistakes.rope(x, positions, 10000.0, interleaved=True) | mirrored(expected, np.s_[1::2])  # noqa: E731
    check_close(out, expected, rtol=1e-3, atol=2e-4, what="rope(x), interleaved pairs,", mistakes=ways, dtype=np.float32)


@exercise("01.2", points=1, hint="By halves: x[..., :half] and x[..., half:] hold the two components of the pairs.")
@given(seed=seeds, tokens=st.integers(1, 4), heads=st.integers(1, 3), d=st.sampled_from([2, 4, 6, 16]), start=st.integers(0, 900))
def test_pairs_by_halves_are_turned_by_position_times_frequency(seed, tokens, heads, d, start):
    x, positions = draws(seed, (tokens, heads, d)), np.arange(start, start + tokens)
    expected, out = oracles.rope(x, positions, 10000.0, interleaved=False), turned(x.copy(), positions, 10000.0, False)
    ways = lambda: mistakes.rope(x, positions, 10000.0, interleaved=False) | mirrored(expected, np.s_[d // 2 :])  # noqa: E731
    check_close(out, expected, rtol=1e-3, atol=2e-4, what="rope(x), pairs by halves,", mistakes=ways, dtype=np.float32)
    with answers("rope of no tokens", "It is an array of shape (0, heads, d)."):
        out = turned(x[:0], positions[:0], 10000.0, False)
    check_close(out, np.zeros((0, heads, d)), what="rope of no tokens", dtype=np.float32)


@exercise("01.2", points=1, hint="Compute both new components from the old ones before you store either.")
def test_rope_leaves_its_input_alone_and_keeps_lengths():
    x = draws(5, (3, 2, 8))
    before = x.copy()
    out = turned(x, np.arange(3), 100.0, True)
    given = "x after the call, which must be as the caller gave it (rope(x) returns a new array),"
    check_close(x, before, rtol=0, atol=0, what=given)
    check_close(np.linalg.norm(out, axis=-1), np.linalg.norm(before, axis=-1), what="length of each turned vector")


# --- 01.3 -----------------------------------------------------------------------------------------------------------


def oracle_head(q, k, v):
    return oracles.attention(q[:, None], k[:, None], v[:, None])[:, 0]


@exercise(
    "01.3",
    points=1,
    hint=(
        "A score compares a query with a key: what keeps it from growing with d, and which keys may this query see?",
        "causal_mask says which scores stay. The others become -inf before layers.softmax: exp(-inf) is a weight of 0.",
        "scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(np.float32(d)); what follows is np.where, softmax, and a product with v.",
    ),
)
@given(seed=seeds, n=st.integers(1, 9), d=st.sampled_from([1, 3, 8, 64]))
def test_one_head_attends_to_the_past_alone(seed, n, d):
    q, k, v = draws(seed, (n, d), (n, d), (n, d))
    expected, what = oracle_head(q, k, v), f"attention_head of {n} tokens, d = {d},"
    check_close(attention_head(q, k, v), expected, what=what, mistakes=lambda: mistakes.head(q, k, v), dtype=np.float32)


@exercise("01.3", points=1, hint="With more keys than queries, the queries are the last tokens: query 0 sees n_k - n_q + 1 keys.")
@given(seed=seeds, n_q=st.integers(1, 5), cached=st.integers(1, 9), d=st.sampled_from([1, 8]))
def test_with_a_cache_the_queries_are_the_last_tokens(seed, n_q, cached, d):
    q, k, v = draws(seed, (n_q, d), (n_q + cached, d), (n_q + cached, d))
    expected, what = oracle_head(q, k, v), f"attention_head of {n_q} queries on {n_q + cached} keys, d = {d},"
    given = q.copy(), k.copy(), v.copy()
    found = attention_head(*given)
    for name, mine, before in zip("qkv", given, (q, k, v), strict=True):
        check_close(mine, before, rtol=0, atol=0, what=f"the caller's {name}, which attention_head has changed,")
    check_close(found, expected, what=what, mistakes=lambda: mistakes.head(q, k, v))


@exercise("01.3", points=1, hint="-inf for what is hidden, and layers.softmax: a row with nothing to see has weights of 0.")
@given(seed=seeds, n_k=st.integers(0, 3), before=st.integers(1, 2), d=st.sampled_from([1, 8]))
@example(seed=1, n_k=0, before=1, d=8)
def test_a_query_before_all_keys_gets_zeros(seed, n_k, before, d):
    q, k, v = draws(seed, (n_k + before, d), (n_k, d), (n_k, d))
    everything, expected = np.tile(v.astype(np.float64).sum(0) / max(1, n_k), (len(q), 1)), oracle_head(q, k, v)
    seen = np.where(np.arange(len(q))[:, None] < before, everything, expected)
    ways = {"hidden keys get a large negative number, not -inf: where all are hidden, all have a weight again": seen}
    what = f"attention_head of {len(q)} queries on {n_k} keys (the first {before} of them before all keys)"
    with answers(what, "Without keys every row is empty, and max of nothing fails: layers.softmax knows both."):
        found = attention_head(q, k, v)
    check_close(found, expected, what=what, mistakes=lambda: ways)


@exercise("01.3", points=1, hint="Use minillm.layers.softmax: it subtracts the maximum.")
def test_large_scores_do_not_overflow():
    q, k, v = np.full((2, 4), 60.0, np.float32), np.full((2, 4), 60.0, np.float32), draws(1, (2, 4))
    expected = oracle_head(q, k, v)
    what = "attention_head with scores of 7,200 (exp of which is inf: was the maximum subtracted?)"
    check_close(attention_head(q, k, v), expected, what=what)


@exercise("01.3", points=1, hint="Transpose the last two axes alone (np.swapaxes): leading axes are heads.")
@pytest.mark.parametrize("stack", [(2, 3), (1, 2)])
def test_leading_axes_are_heads_that_do_not_mix(stack):
    q, k, v = draws(2, (*stack, 4, 8), (*stack, 6, 8), (*stack, 6, 8))
    expected = np.stack([np.stack([oracle_head(q[a, b], k[a, b], v[a, b]) for b in range(stack[1])]) for a in range(stack[0])])
    what = f"attention_head over a {stack} stack of heads"
    with answers(what, "k.T turns around all axes: only the last two change places, np.swapaxes(k, -1, -2)."):
        found = attention_head(q, k, v)
    check_close(found, expected, what=what)


# --- 01.4 -----------------------------------------------------------------------------------------------------------


def check_kept(logits, p, expected):
    """keep_top_p keeps exactly the expected ids, with their logits; some other sets have a name."""
    logits = np.asarray(logits, np.float64)
    given = logits.copy()
    filtered = keep_top_p(given, p)
    found = set(np.flatnonzero(np.isfinite(filtered)).tolist())
    cause = next((words for words, ids in mistakes.top_p(logits.tolist(), p, len(expected)).items() if ids == found), "")
    shown = " ".join(f"{x:.3g}" for x in oracles.softmax(logits.tolist())[:8]) + " …" * (len(logits) > 8)
    assert found == expected, f"of probabilities {shown}, p = {p:.3g} keeps {sorted(expected)}, found {sorted(found)}. {cause}"
    check_close(given, logits, rtol=0, atol=0, what="the caller's logits, which keep_top_p has changed,")
    ways = {"probabilities stand where logits belong: `logits` must still be what was given": oracles.softmax(logits.tolist())}
    ways = {words: np.where(np.isfinite(filtered), values, -np.inf) for words, values in ways.items()}
    right = np.where(np.isfinite(filtered), logits, -np.inf)
    check_close(filtered, right, rtol=0, atol=0, what="logits of what is kept", mistakes=lambda: ways)


@exercise(
    "01.4",
    points=1,
    hint=(
        "The likeliest token alone has more than p: what do you keep, and does your rule keep it?",
        "Sort from the likeliest down (np.argsort of -logits, stable), and ask of each what those before it hold together.",
        "before = np.cumsum(probabilities) - probabilities; a token stays where before < p, so the one that crosses p stays.",
    ),
)
@pytest.mark.parametrize(
    ("probabilities", "p", "kept"),
    [
        ([0.5, 0.3, 0.2], 0.5, {0}),
        ([0.5, 0.3, 0.2], 0.51, {0, 1}),
        ([0.2, 0.3, 0.5], 0.79, {2, 1}),
        ([0.2, 0.3, 0.5], 0.81, {0, 1, 2}),
        ([0.1, 0.9], 0.05, {1}),
        ([1.0], 0.3, {0}),
        ([0.25, 0.25, 0.25, 0.25], 0.6, {0, 1, 2}),
        ([0.01, 0.03] * 25, 0.765, {*range(1, 50, 2), 0, 2}),  # among equals the lower ids
    ],
)
def test_the_fewest_likeliest_tokens_that_reach_p_are_kept(probabilities, p, kept):
    check_kept(np.log(probabilities), p, kept)


@exercise("01.4", points=1, hint="What softmax gives for sorted logits must go back to the ids that they came from.")
@given(seed=seeds, n=st.integers(1, 30), p=st.floats(0.02, 0.99))
def test_top_p_agrees_with_counting_on_random_logits(seed, n, p):
    logits = 3 * draws(seed, (n,)).astype(np.float64)
    check_kept(logits, p, oracles.top_p(oracles.softmax(logits.tolist()), p))


# --- 01.5 -----------------------------------------------------------------------------------------------------------

NARROW = replace(preset("llama-3-8b"), name="32 heads of 64 in 4096", d_head=64)


@exercise(
    "01.5",
    points=2,
    hint=(
        "Which work grows with the context, and which would be the same for the very first token?",
        "Every parameter of a matrix (matrix_parameters) is one multiply and one add. Attention has two products: q·k, w·v.",
        "2 · matrix_parameters + n_layers · 4 · n_heads · d_head · context: 2 FLOPs for each of both products.",
    ),
)
@pytest.mark.parametrize(
    ("name", "context", "flops"),
    [
        # 2 × parameters in matrices, and 4 × layers × heads × d_head × context, from the published shapes by hand
        ("smollm2-135m", 1, 2 * 134_479_872 + 4 * 30 * 9 * 64 * 1),
        ("smollm2-135m", 8192, 2 * 134_479_872 + 4 * 30 * 9 * 64 * 8192),
        ("llama-2-7b", 4096, 2 * 6_607_077_376 + 4 * 32 * 32 * 128 * 4096),
        ("llama-3-8b", 1000, 2 * 7_504_658_432 + 4 * 32 * 32 * 128 * 1000),
        (NARROW, 1000, 2 * 6_833_569_792 + 4 * 32 * 32 * 64 * 1000),
    ],
    ids=["135m-1", "135m-8192", "7b-4096", "8b-1000", "narrow-heads"],
)
def test_a_decode_step_costs_two_flops_a_parameter_and_attention_over_the_context(name, context, flops):
    config = replace(preset(name), name=name) if isinstance(name, str) else name
    attention, group = 4 * config.n_layers * config.n_heads * config.d_head * context, config.n_heads // config.n_kv_heads
    ways = {
        "a multiply and an add count as one FLOP, not two": flops / 2,
        "attention over the context is left out": flops - attention,
        "attention has the scores (q·k) but not the average (weights·v)": flops - attention / 2,
        "attention is counted for the KV heads alone: every query head works": flops - attention + attention / group,
        "attention is counted for one layer": flops - attention + attention / config.n_layers,
        "the whole context goes through the matrices again: its keys and values are cached, one token does": (
            flops + (context - 1) * 2 * config.matrix_parameters()
        ),
        "attention is counted for as many queries as there are keys: one token decodes": flops + (context - 1) * attention,
        "attention is counted for one head": flops - attention + attention / config.n_heads,
        "d_model stands for all heads together: that is n_heads × d_head, which need not be the same": (
            flops - attention + 4 * config.n_layers * config.d_model * context
        ),
        "the context is taken to leave out the token itself: `context` counts it already": flops + attention / context,
        "the token itself is taken off the context: `context` counts it": flops - attention / context,
        "all parameters are counted, also norms and an embedding that is only looked up": 2 * config.parameters() + attention,
    }
    found, what = float(config.decode_flops(context)), f"decode_flops({context}) of {config.name}"
    check_close(found, float(flops), rtol=1e-12, what=what, mistakes=lambda: ways)


@exercise("01.5", points=0, hint="All query heads work, not only as many as there are KV heads.")
def test_a_context_twice_as_long_costs_attention_twice():
    config = preset("llama-3-8b")
    a, b, c = (config.decode_flops(n) for n in (1000, 2000, 3000))
    assert b - a == c - b == 4 * 32 * 32 * 128 * 1000, f"1,000 more tokens of context add {b - a:,} FLOPs, expected 524,288,000"


# --- 01.6 -----------------------------------------------------------------------------------------------------------


GUIDELLM = "".join(("guide", "llm"))  # as a command line gives it: equal to the name in the code, and not the same object


def log_of(arrived, *tokens, together=1):
    """The events of request 0, between those of another. together: tokens of its last event."""
    other = [Event(1, ARRIVED, arrived - 2.0, 7), Event(1, TOKEN, arrived - 1.0), Event(1, TOKEN, arrived + 77.0)]
    own = [Event(0, TOKEN, t, together if i == len(tokens) else 1) for i, t in enumerate(tokens, 1)]
    return EventLog(events=[*other[:2], Event(0, ARRIVED, arrived, 5), *own, other[2]])


@exercise(
    "01.6",
    points=1,
    hint=(
        "Three tokens: how many gaps lie between them, and to whom belongs the wait for the first?",
        "n tokens have n - 1 gaps; the first token's wait is TTFT. All gaps together are the last time minus the first.",
        '"vllm": (times[-1] - times[0]) / (count - 1). "guidellm" starts at the arrival and divides by count.',
    ),
)
@given(arrived=st.floats(0, 100), first=st.floats(0.001, 9), gaps=st.lists(st.floats(0.001, 3), min_size=1, max_size=9))
def test_tpot_is_the_mean_gap_after_the_first_token(arrived, first, gaps):
    times = [arrived + first + sum(gaps[:i]) for i in range(len(gaps) + 1)]
    all_gaps, n = math.fsum(gaps), len(gaps)
    ways = {
        "the gaps are divided by the number of tokens: there is one gap less": all_gaps / (n + 1),
        "the median gap is taken: one long stall disappears": sorted(gaps)[n // 2],
        "the wait for the first token (TTFT) is counted as well": (first + all_gaps) / n,
        "all of E2E is spread over all tokens: that is the other convention": (first + all_gaps) / (n + 1),
        "the sum of the gaps is not divided": all_gaps,
        "the tokens of all requests are taken for those of one": 78.0 / (n + 2),
    }
    found = events.tpot(log_of(arrived, *times), 0)
    check_close(found, all_gaps / n, rtol=1e-9, what=f"tpot of {n + 1} tokens", mistakes=lambda: ways)


@exercise("01.6", points=1, hint='"guidellm" divides the whole E2E, from arrival, by the number of tokens.')
@given(arrived=st.floats(0, 100), times=st.lists(st.floats(0.001, 50), min_size=2, max_size=9).map(sorted))
def test_the_other_convention_spreads_e2e_over_all_tokens(arrived, times):
    log = log_of(arrived, *(arrived + t for t in times))
    expected = (arrived + times[-1] - arrived) / len(times)
    ways = {
        "the convention is not looked at": (times[-1] - times[0]) / (len(times) - 1),
        "the wait for the first token is left out": (times[-1] - times[0]) / len(times),
        "E2E is divided by the number of gaps: divide it by that of tokens": times[-1] / (len(times) - 1),
    }
    what = f'tpot(log, 0, "guidellm") of {len(times)} tokens'
    check_close(events.tpot(log, 0, GUIDELLM), expected, rtol=1e-9, what=what, mistakes=lambda: ways)


@exercise("01.6", points=1, hint="One token has no gap: None, not zero. An event of 3 tokens counts as 3: `count` does that.")
def test_tpot_counts_tokens_and_one_alone_has_none():
    one, none = log_of(1.0, 3.5), log_of(1.0)
    found = events.tpot(one, 0)
    assert found is None, f"TPOT of one token must be None, found {found}: there is no gap to speak of"
    check_close(events.tpot(one, 0, GUIDELLM), 2.5, what='tpot(log, 0, "guidellm") of one token that came after 2.5 s')
    for convention in ("vllm", GUIDELLM):
        with answers(f'tpot(log, 0, "{convention}") of a request without a token', "Where is nothing to divide by, it is None."):
            found = events.tpot(none, 0, convention), events.tpot(none, 0, convention, 0)
        assert found == (None, None), f"TPOT of no token must be None in either convention, found {found}"
    three = log_of(1.0, 3.0, 4.5, together=3)  # as a client's chunks and speculative decoding give them
    for convention, expected, of_events in (("vllm", 0.5, 1.5), (GUIDELLM, 0.875, 1.75)):
        ways = {"events are counted, not tokens: an event of three tokens counts as three": of_events}
        what = f'tpot(log, 0, "{convention}") of a token after 2 s and three at once after 3.5 s'
        check_close(events.tpot(three, 0, convention), expected, what=what, mistakes=lambda ways=ways: ways)


# --- 01.7 -----------------------------------------------------------------------------------------------------------

VOCAB = 97


def next_token(tokens):
    """What the model below says after these tokens: it depends on each of them, and on how many they are."""
    return (5 * tokens[-1] + 3 * len(tokens) + sum(i * token for i, token in enumerate(tokens, 1))) % VOCAB


class Held:
    """A cache that holds the tokens themselves."""

    def __init__(self):
        self.tokens = []

    @property
    def length(self):
        return len(self.tokens)


class OnDevice:
    """Logits where a backend has them: nothing but ops.download can read them."""

    def __init__(self, rows):
        self.rows = rows


class CountedModel:
    """A model without weights. `steps` lists, for each forward pass, how many rows each sequence fed: [[7], [1, 1], …]."""

    def __init__(self, context):
        self.config, self.ops, self.steps = SimpleNamespace(context_length=context), self, []

    def new_cache(self):
        return Held()

    def logits(self, segments):
        self.steps.append([len(segment.tokens) for segment in segments])
        for segment in segments:
            segment.cache.tokens[segment.position :] = [int(token) for token in segment.tokens]
        return OnDevice([next_token(segment.cache.tokens) for segment in segments if segment.logits == "last"])

    def download(self, logits):
        return np.eye(VOCAB, dtype=np.float32)[logits.rows]


class NoText:
    """A detokenizer for tokens that mean nothing."""

    def push(self, token):
        return ""

    def flush(self):
        return ""


def drawn_prompt(length):
    return [int(token) for token in 1000 * abs(draws(length, (length,))) % VOCAB]


def sequences_of(prompts, limits, model):
    """Greedy sequences, each with a prompt and the most tokens that it may get."""
    rows = enumerate(zip(prompts, limits, strict=True))
    return [
        SequenceState(i, list(prompt), SamplingParams(temperature=0, max_tokens=most), model.new_cache(), NoText())
        for i, (prompt, most) in rows
    ]


def expected_answer(prompt, most, eos=()):
    """Ask for one token after the other of the whole text."""
    answer = []
    while len(answer) < most and not (answer and answer[-1] in eos):
        answer.append(next_token([*prompt, *answer]))
    return answer


def generated(model, sequences, eos=(), use_cache=True):
    """Run the loop to its end, within reason. -> [index of the sequence that got a token], in order"""
    ask = "Logits come from the backend: transformer.ops.download(...) first. A segment has at least one token: see pending()."
    with answers("generate_tokens", ask):
        loop = iter(generate_tokens(model, eos, sequences, use_cache=use_cache))
        return [pair[0].request for pair in itertools.islice(loop, 400)]


def check_steps(steps, expected, ways):
    cause = next((words for words, made in ways.items() if made == steps), "")
    shown, found = " ".join(map(str, expected[:6])), " ".join(map(str, steps[:6]))
    more, most = " …" * (len(expected) > 6), " …" * (len(steps) > 6)
    assert steps == expected, (
        f"rows that each forward pass was fed must be {shown}{more} ({sum(map(sum, expected))} in {len(expected)} passes), "
        f"found {found}{most} ({sum(map(sum, steps))} in {len(steps)}). {cause}"
    )


def check_answers(sequences, expected):
    found = [list(sequence.token_ids) for sequence in sequences]
    assert found == expected, f"the tokens must be {expected}, found {found}: were logits given to the sequence they belong to?"


@exercise(
    "01.7",
    points=1,
    hint=(
        "How many rows does the first forward pass have, how many has each one after it, and which token is never fed?",
        "prefill(transformer, sequence) feeds the prompt and gives the first logits. Then segment(pending()) is what is new.",
        "yield choose(sequence, prefill(transformer, sequence)); then a while loop over sequences without finish_reason.",
    ),
)
@pytest.mark.parametrize(("length", "most"), [(7, 5), (1, 1), (1, 4), (12, 1), (30, 2)])
def test_the_prompt_is_fed_once_and_then_one_row_a_step(length, most):
    prompt = drawn_prompt(length)
    model, expected = CountedModel(context=100), expected_answer(prompt, most)
    sequences, once, after = sequences_of([prompt], [most], model), [[length]], [[1]] * (most - 1)
    tokens = generated(model, sequences)
    ways = {
        "One token more than needed is fed: the last one is chosen, and nothing comes after it.": [*once, *after, [1]],
        "The whole text is fed again each time: the cache holds all but the newest token.": [[length + i] for i in range(most)],
        "The prompt is fed a second time in the first step of decode.": [*once, [length + 1], *after[1:]],
        "The prompt is fed a token at a time: one forward pass can take all of it.": [[1]] * length + after,
        "Only the prompt is fed: the loop has to go on.": once,
    }
    check_steps(model.steps, [*once, *after], ways)
    check_answers(sequences, [expected])
    assert tokens == [0] * most, f"a pair must be yielded for each of {most} tokens, found {len(tokens)}: choose gives it"


@exercise("01.7", points=1, hint="Each turn: those without finish_reason, a segment of each, one call for the logits of all.")
@pytest.mark.parametrize("limits", [(3, 5, 2), (1, 4), (2, 2), (4, 1, 1)])
def test_sequences_share_a_pass_until_each_has_finished(limits):
    prompts = [drawn_prompt(3 * i + 2) for i in range(len(limits))]
    model, expected = CountedModel(context=100), [expected_answer(p, n) for p, n in zip(prompts, limits, strict=True)]
    sequences, first = sequences_of(prompts, limits, model), [[len(prompt)] for prompt in prompts]
    generated(model, sequences)
    shared = [[1] * sum(n > i for n in limits) for i in range(1, max(limits))]
    in_turn = [step for p, n in zip(first, limits, strict=True) for step in [p, *[[1]] * (n - 1)]]
    ways = {
        "One sequence is answered after the other: a pass that takes a row of each reads the weights once for all.": in_turn,
        "Each sequence has passes of its own: one pass that takes a row of each reads the weights once for all.": [
            *first, *[[1] for step in shared for _ in step]],
        "Sequences that have finished go on beside the others.": [*first, *[[1] * len(limits)] * len(shared)],
        "All stop when the first one has finished.": [*first, *shared[: min(limits) - 1]],
    }  # fmt: skip
    check_steps(model.steps, [*first, *shared], ways)
    check_answers(sequences, expected)


@exercise("01.7", points=1, hint="max_tokens is not the only end: after choose, finish_reason says whether there was one.")
@pytest.mark.parametrize(
    ("stop", "room", "reason"), [(3, 100, "stop"), (0, 100, "stop"), (None, 4, "length"), (None, 1, "length")]
)
def test_a_stop_token_and_a_full_context_end_it(stop, room, reason):
    prompt = drawn_prompt(6)
    free = expected_answer(prompt, 30)
    last = room - 1 if stop is None else free.index(free[stop])
    eos = {free[last]} if stop is not None else set()
    model = CountedModel(context=len(prompt) + room)
    sequences, steps = sequences_of([prompt], [30], model), [[len(prompt)], *[[1]] * last]
    generated(model, sequences, eos)
    what = f"its token {last + 1} ends the text" if eos else f"the context has room for {room}"
    longer = model.steps[: len(steps)] == steps and len(model.steps) > len(steps)
    ways = {f"It goes on although {what}: choose sets finish_reason.": model.steps if longer else None}
    check_steps(model.steps, steps, ways)
    check_answers(sequences, [free[: last + 1]])
    found = sequences[0].finish_reason
    assert found == reason, f"{what}: finish_reason must be {reason!r}, found {found!r}"


@exercise("01.7", points=1, hint="yield a token as soon as it is chosen: handed out at the end, the first waits for the last.")
def test_a_token_is_handed_out_before_the_next_is_computed():
    model, prompt = CountedModel(context=100), [5, 8, 13]
    sequences = sequences_of([prompt], [5], model)
    with answers("the first token of generate_tokens", "It comes from the prefill alone."):
        loop = iter(generate_tokens(model, (), sequences))
        rows = []
        for _ in range(5):
            next(loop)
            rows.append(sum(map(sum, model.steps)))
    cause = " Nothing is handed out before all is done: yield it." if rows == [7] * 5 else ""
    assert rows == [3, 4, 5, 6, 7], f"when token 1, 2, … 5 comes, 3, 4, … 7 rows must have been computed, found {rows}.{cause}"


@exercise("01.7", points=0, hint="Without a cache everything is pending, every time: ask pending(), do not count yourself.")
def test_without_a_cache_the_loop_feeds_everything_each_time():
    model, prompt = CountedModel(context=100), [5, 8, 13]
    sequences, expected = sequences_of([prompt], [4], model), expected_answer(prompt, 4)
    generated(model, sequences, use_cache=False)
    ways = {"The newest token alone is fed: pending() is all that the cache lacks.": [[3], [1], [1], [1]]}
    check_steps(model.steps, [[3], [4], [5], [6]], ways)
    check_answers(sequences, [expected])


# --- the rest of the formulas, for which there is no exercise ---------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # counted by transformers from the published configurations
        ("smollm2-135m", 134_515_008),
        ("smollm2-360m", 361_821_120),
        ("smollm2-1.7b", 1_711_376_384),
        ("llama-2-7b", 6_738_415_616),
        ("llama-2-13b", 13_015_864_320),
        ("llama-2-70b", 68_976_648_192),
        ("llama-3-8b", 8_030_261_248),
        ("llama-3-70b", 70_553_706_496),
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.1-405b", 405_853_388_800),
        ("qwen2-7b", 7_615_616_512),
        ("qwen3-8b", 8_190_735_360),
        # said on the model's own page, or by its safetensors index
        ("llama-3.1-70b", 70_553_706_496),
        ("llama-3.2-1b", 1_235_814_400),
        ("llama-3.2-3b", 3_212_749_824),
        ("mistral-7b-v0.3", 7_248_023_552),
        ("mistral-nemo-12b", 12_247_782_400),
        ("qwen2.5-0.5b", 494_032_768),
        ("qwen2.5-7b", 7_615_616_512),
        ("qwen2.5-72b", 72_706_203_648),
        ("qwen3-0.6b", 596_049_920),
        ("qwen3-32b", 32_762_123_264),
    ],
)
def test_parameters_of_published_models(name, parameters):
    assert preset(name).parameters() == parameters


@pytest.mark.parametrize("name", PRESETS)
def test_a_prefill_is_the_sum_of_its_decode_steps(name):
    """The head aside, computing n tokens at once or one after the other is the same arithmetic."""
    config, n, cached = preset(name), 17, 5
    head = 2 * config.vocab_size * config.d_model
    steps = sum(config.decode_flops(cached + i + 1) - head for i in range(n))
    assert config.prefill_flops(n, cached) == steps + head
    assert config.prefill_flops(n, cached, logits=n) == steps + n * head
