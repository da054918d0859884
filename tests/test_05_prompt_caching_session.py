"""Prompt caching for one user: breakpoints, time to live, bounds, and the bill."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_01_inference_tokenizer import tokenizer as recorded

from minillm import LLM, MiniLLMError, SamplingParams
from minillm.costs.prices import FIVE_MINUTES, ONE_HOUR, Prices, break_even_reuses
from minillm.errors import RequestError
from minillm.gateway.session import Part, Session, Usage
from minillm.model.random_model import TINY, random_model
from minillm.model.tokenizer import Tokenizer

SMALL = replace(TINY, n_layers=2, d_model=32, n_heads=2, n_kv_heads=1, d_head=16, d_ff=32, vocab_size=300, context_length=128)
ANSWER = 3
PARAMS = SamplingParams(max_tokens=ANSWER, ignore_eos=True)
MANUAL, OTHER = list(range(20)), list(range(50, 70))  # 20 tokens each: in blocks of 8 the last one is half filled


@pytest.fixture(scope="module")
def llm():
    return LLM(random_model(SMALL))


class Clock:
    """Time that passes when told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def session(llm, clock):
    return Session(llm, ttl_s=300, min_tokens=4, capacity=64, block_size=8, clock=clock)


def ask(session, *parts, **options):
    """(input, write, read) of a call; its tokens are those of a plain generation."""
    answer = session.generate(list(parts), PARAMS, **options)
    ids = [i for part in parts for i in (part.content if isinstance(part, Part) else part)]
    assert answer.completion.prompt_token_ids == ids
    assert answer.completion.token_ids == session.llm.generate(ids, PARAMS).token_ids
    usage = answer.usage
    assert usage.input_tokens + usage.cache_write_tokens + usage.cache_read_tokens == len(ids)
    assert usage.output_tokens == len(answer.completion.token_ids) == ANSWER
    return usage.input_tokens, usage.cache_write_tokens, usage.cache_read_tokens


def kept(*contents):
    """Parts with a breakpoint each."""
    return [Part(content, cache=True) for content in contents]


def all_free(session):
    return session.store.pool.num_free == session.store.pool.num_blocks


# --- hit and miss ---------------------------------------------------------------------------------------------------------


def test_the_first_call_writes_and_the_second_reads(session):
    assert ask(session, *kept(MANUAL), [1, 2, 3]) == (3, 20, 0)
    assert ask(session, *kept(MANUAL), [4, 5]) == (2, 0, 20)
    assert ask(session, *kept(MANUAL), [1, 2, 3]) == (3, 0, 20)


def test_what_is_not_marked_is_neither_kept_nor_looked_up(session):
    assert ask(session, MANUAL, [1, 2]) == (22, 0, 0)
    assert session.entries == {} and all_free(session)
    ask(session, *kept(MANUAL), [1, 2])
    assert ask(session, MANUAL, [1, 2]) == (22, 0, 0)


def test_another_beginning_is_a_miss_though_the_rest_is_equal(session):
    ask(session, *kept(MANUAL), [1])
    assert ask(session, [99], *kept(MANUAL), [1]) == (1, 21, 0)
    changed = [*MANUAL[:-1], 99]
    assert ask(session, *kept(changed), [1]) == (1, 20, 0)


def test_a_conversation_reads_up_to_its_last_breakpoint_and_writes_the_rest(session):
    assert ask(session, *kept(MANUAL, [1, 2, 3, 4])) == (0, 24, 0)
    assert ask(session, *kept(MANUAL, [1, 2, 3, 4]), [7, 8], *kept([9, 10])) == (0, 4, 24)
    assert ask(session, *kept(MANUAL), [5]) == (1, 0, 20), "the earlier breakpoint is still an entry of its own"


def test_a_prompt_that_ends_with_its_breakpoint_still_computes_its_last_token(session):
    ask(session, *kept(MANUAL))
    assert ask(session, *kept(MANUAL)) == (0, 1, 19)
    assert ask(session, *kept(MANUAL), [1]) == (1, 0, 20)


def test_entries_that_begin_alike_share_their_blocks(session):
    ask(session, *kept(MANUAL, [1, 2, 3, 4]))
    assert len(session.entries) == 2 and session.kept_blocks == 3  # 20 and 24 tokens: the same three blocks
    ask(session, *kept(MANUAL), *kept([5, 6, 7, 8]))
    assert len(session.entries) == 3 and session.kept_blocks == 4  # two full blocks shared; the third parts within it


def test_salts_keep_tenants_apart(session):
    ask(session, *kept(MANUAL), [1], salt="one")
    assert ask(session, *kept(MANUAL), [1]) == (1, 20, 0)
    assert ask(session, *kept(MANUAL), [1], salt="one") == (1, 0, 20)


def test_parts_of_text_cost_what_they_say(llm, session):
    first = session.generate([Part("Answer as a pirate. ", cache=True), "Where is it?"], PARAMS)
    second = session.generate([Part("Answer as a pirate. ", cache=True), "Who are you?"], PARAMS)
    assert (first.usage.cache_write_tokens, second.usage.cache_read_tokens) == (20, 20)  # a token is a byte here
    assert second.text == llm.generate("Answer as a pirate. Who are you?", PARAMS).text
    assert session.generate("a", PARAMS).usage == Usage(1, 0, 0, ANSWER) == session.generate([7], PARAMS).usage


# --- text: the tokens of the whole -----------------------------------------------------------------------------------------

PHRASES = st.sampled_from(
    ["the", " the", "n", "ew", " ", "  ", "\n", "\n\n", "a b", "'", "s", "1", "234", "é", "😀", "\u2581", "<tool>", "</s>"]
)
TEXTS = st.lists(PHRASES | st.text(max_size=3), max_size=4).map("".join)
KINDS = ["gpt-2", "llama-bpe", "qwen2", "sentencepiece", "crossing", "no bytes"]


@cache
def tokenizer(kind):
    """The recorded vocabularies, and two of SentencePiece's: tokens that reach over spaces; no token for most characters."""
    if kind not in ("crossing", "no bytes"):
        return recorded(kind)
    words = "_ t h e th the _the _a a b _b _a_b the_the n ew new _the_".replace("_", "\u2581").split()
    known = [f"<0x{byte:02X}>" for byte in range(256)] if kind == "crossing" else []
    tokens = ["<unk>", "<s>", "</s>", *known, *(words if kind == "crossing" else words[:10])]
    types = [2, 3, 3, *[6] * len(known)] + [1] * (len(tokens) - 3 - len(known))
    ends = {"bos_id": 1, "eos_id": 2, "unknown_id": 0, "add_bos": True}
    return Tokenizer(tokens, scores=[-float(i) for i in range(len(tokens))], token_types=types, **ends)


def tokenized(kind, parts):
    """Session.tokenize without a model."""
    pool = SimpleNamespace(block_size=16)
    stub = SimpleNamespace(
        llm=SimpleNamespace(tokenizer=tokenizer(kind)), min_tokens=1, max_blocks=64, store=SimpleNamespace(pool=pool)
    )
    return Session.tokenize(stub, parts)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
@example(texts=["a b", "c a"])
@example(texts=["the n", "ew"])
@example(texts=["", " ", "", "a"])
def test_parts_have_the_tokens_of_the_whole_text_and_breakpoints_are_prefixes(kind, texts):
    t = tokenizer(kind)
    whole = t.encode("".join(texts))
    ids, breakpoints = tokenized(kind, kept(*texts))
    assert ids == whole
    alone = [t.encode("".join(texts[: n + 1])) for n in range(len(texts))]
    expected = [shared_beginning(tokens, whole) for tokens in alone]
    assert breakpoints == [n for n in expected if n >= 1]


def shared_beginning(a, b):
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(before=TEXTS, first=TEXTS, second=TEXTS)
@example(before="the n", first="the", second="ew")
@example(before="x the new", first="er", second=" y")
def test_whatever_follows_two_prompts_with_the_same_beginning_share_it(kind, before, first, second):
    (a_ids, a), (b_ids, b) = (tokenized(kind, [*kept(before), after]) for after in (first, second))
    n = min([*a, *b]) if a and b else 0
    assert a_ids[:n] == b_ids[:n]
    stub = SimpleNamespace(entries={None: SimpleNamespace(salt=None, tokens=a_ids[: max(a, default=0)])})
    _, read = Session.longest_match(stub, b_ids, b, None)
    assert read == n


@pytest.mark.parametrize("kind", ["gpt-2", "sentencepiece"])
def test_ids_between_texts_are_taken_as_they_are(kind):
    t = tokenizer(kind)
    ids, breakpoints = tokenized(kind, ["a b", Part([7, 8], cache=True), Part("c", cache=True), "d"])
    assert ids == [*t.encode("a b"), 7, 8, *t.encode("cd", bos=False, after=[8])]
    assert breakpoints[0] == len(t.encode("a b")) + 2 <= breakpoints[1]
    assert t.decode(t.encode("c", bos=False, after=[8]), after=[8]) == "c"


@pytest.mark.parametrize("kind", ["llama-bpe", "sentencepiece"])
def test_a_prompt_in_parts_is_answered_as_the_whole_is_and_reads_what_was_kept(kind):
    t = tokenizer(kind)
    llm = LLM((random_model(replace(SMALL, vocab_size=t.vocab_size))[0], t))
    session = Session(llm, min_tokens=1, capacity=64, block_size=8)
    before, reads = "The keeper filled the lantern with oil, and the n", []
    for after in ("ight fell.", "ew snow", "", " ", "orth"):
        answer = session.generate([Part(before, cache=True), after], PARAMS)
        plain = llm.generate(before + after, PARAMS)
        assert answer.completion.prompt_token_ids == plain.prompt_token_ids
        assert answer.completion.token_ids == plain.token_ids
        reads.append(answer.usage.cache_read_tokens)
    assert reads[0] == 0 and min(reads[1:]) >= len(t.encode(before)) - 3


def test_an_entry_that_reaches_further_serves_an_earlier_breakpoint(session):
    ask(session, *kept([*MANUAL, 1, 2, 3]), [1])
    assert ask(session, *kept(MANUAL), [5]) == (1, 0, 20)
    assert len(session.entries) == 2 and session.kept_blocks == 4  # two full blocks shared; the third parts within it
    assert ask(session, *kept([*MANUAL, 1, 9]), [5]) == (1, 2, 20)


def test_only_the_first_part_gets_the_begin_of_text_token(llm, session, monkeypatch):
    monkeypatch.setattr(llm.tokenizer, "add_bos", True)
    ids, _ = session.tokenize(["ab", "cd"])
    assert ids == [llm.tokenizer.bos_id, *llm.tokenizer.encode("abcd", bos=False)]


# --- time -----------------------------------------------------------------------------------------------------------------


def test_an_entry_expires_and_its_blocks_are_free(session, clock):
    ask(session, *kept(MANUAL), [1])
    clock.now += 300
    session.expire()
    assert session.entries == {} and all_free(session)
    assert ask(session, *kept(MANUAL), [1]) == (1, 20, 0)


def test_each_use_begins_the_time_anew(session, clock):
    ask(session, *kept(MANUAL), [1])
    for _ in range(3):
        clock.now += 299
        assert ask(session, *kept(MANUAL), [2]) == (1, 0, 20)
    clock.now += 300
    assert ask(session, *kept(MANUAL), [2]) == (1, 20, 0)


def test_expiry_of_one_entry_leaves_the_other_whole(session, clock):
    ask(session, *kept(MANUAL), [1])
    clock.now += 200
    ask(session, *kept([*MANUAL, 1, 2, 3]), [1])  # reads the first, which lives on
    clock.now += 200
    ask(session, *kept([*MANUAL, 1, 2, 3]), [1])  # its own entry is read; the first was last used at 200
    assert len(session.entries) == 2
    clock.now += 150
    assert ask(session, *kept([*MANUAL, 1, 2, 3]), [4]) == (1, 0, 23)
    assert len(session.entries) == 1 and session.kept_blocks == 3


# --- bounds ---------------------------------------------------------------------------------------------------------------


def test_what_is_too_short_is_not_kept(session):
    assert ask(session, *kept([1, 2, 3]), [4, 5]) == (5, 0, 0)
    assert session.entries == {}
    assert ask(session, *kept([1, 2, 3, 4]), [5]) == (1, 4, 0)


def test_beyond_the_capacity_the_least_recently_used_goes(llm, clock):
    session = Session(llm, min_tokens=4, capacity=64, block_size=8, clock=clock)
    prompts = [[100 + i] * 24 for i in range(4)]  # three blocks each; eight may be kept
    for prompt in prompts[:2]:
        ask(session, *kept(prompt), [1])
    ask(session, *kept(prompts[0]), [1])  # now the second is the oldest
    ask(session, *kept(prompts[2]), [1])
    assert session.kept_blocks == 6
    assert ask(session, *kept(prompts[0]), [2]) == (1, 0, 24)
    assert ask(session, *kept(prompts[1]), [2]) == (1, 24, 0)


def test_what_can_never_be_kept_is_plain_input_and_drops_nothing(session):
    ask(session, *kept(MANUAL), [1])
    assert ask(session, *kept([7] * 65), [1]) == (66, 0, 0)
    assert ask(session, *kept(MANUAL), [7] * 10, *kept([8] * 40)) == (50, 0, 20)


def test_a_request_has_room_of_its_own_however_full_the_session_is(session):
    ask(session, *kept([7] * 64), [1])
    assert session.kept_blocks == 8 == session.max_blocks
    assert ask(session, [9] * 120) == (120, 0, 0)
    assert ask(session, *kept([7] * 64), [2] * 60) == (60, 0, 64)


def test_room_for_a_request_can_be_less_than_the_context(llm):
    session = Session(llm, min_tokens=4, capacity=64, block_size=8, max_length=30)
    assert session.store.pool.num_blocks == 8 + 4
    with pytest.raises(RequestError, match="takes 30 tokens with its answer, found 31"):
        ask(session, *kept(MANUAL), [1] * 8)
    assert ask(session, *kept(MANUAL), [1] * 7) == (7, 20, 0)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(0, 30), st.booleans(), st.integers(0, 250)), max_size=8)
)
def test_whatever_is_asked_blocks_are_owned_by_entries_alone_and_within_the_bound(llm, calls):
    clock = Clock()
    session = Session(llm, ttl_s=300, min_tokens=4, capacity=48, block_size=8, clock=clock)
    total = Usage()
    for who, length, rest, mark_both, wait in calls:
        clock.now += wait
        ask(session, *kept([who] * length), *(kept([9] * rest) if mark_both else [[9] * rest]))
        total += session.last.usage
        owners = [b for entry in session.entries.values() for b in entry.cache.table.blocks]
        assert session.store.pool.refs == [owners.count(b) for b in range(session.store.pool.num_blocks)]
        assert session.kept_blocks == len(set(owners)) <= 6
        assert all(entry.expires > clock.now for entry in session.entries.values())
    assert session.total == total
    clock.now += 300
    session.expire()
    assert all_free(session)


# --- stopping early, and bad input --------------------------------------------------------------------------------------------


def test_who_stops_early_pays_for_what_was_done_and_leaves_nothing_behind(session):
    pieces = session.stream([*kept(MANUAL), [1]], SamplingParams(max_tokens=50, ignore_eos=True))
    next(pieces)
    pieces.close()
    usage = session.last.usage
    assert (usage.cache_write_tokens, session.last.completion.finish_reason) == (20, "cancelled")
    assert 1 <= usage.output_tokens < 50
    assert ask(session, *kept(MANUAL), [1]) == (1, 0, 20)
    assert session.kept_blocks == session.store.pool.num_blocks - session.store.pool.num_free


@pytest.mark.parametrize(("step", "written"), [(1, 0), (2, 20), (3, 20)])
def test_an_interrupted_step_leaves_what_is_whole(llm, session, monkeypatch, step, written):
    """Between the layers of the prefill, and of a decode step."""
    calls, ops = [], llm.transformer.ops

    def interrupted(x, layer, config):
        calls.append(layer)
        if len(calls) == 2 * (step - 1) + 1:
            raise KeyboardInterrupt
        return ops.add_feed_forward(x, layer, config)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(llm.transformer, "ops", replace(ops, add_feed_forward=interrupted))
        session.generate([*kept(MANUAL), [1]], PARAMS)
    assert session.last.usage == Usage(21 - written, written, 0, step - 1)
    assert session.store.pool.num_blocks - session.store.pool.num_free == session.kept_blocks == (3 if written else 0)
    assert ask(session, *kept(MANUAL), [1]) == (1, 20 - written, written)


@pytest.mark.parametrize(
    ("parts", "options", "says"),
    [
        ([], {}, "the prompt is empty"),
        ([Part([], cache=True)], {}, "the prompt is empty"),
        ([[1] * 128], {}, "prompt has 128 tokens, the model's context holds 128"),
        (kept(MANUAL), {"salt": []}, "the salt must be hashable, found []"),
    ],
)
def test_a_call_that_makes_no_sense_is_refused_and_changes_nothing(session, parts, options, says):
    ask(session, *kept(MANUAL), [1])
    before = list(session.entries), list(session.store.pool.refs), session.last, session.total
    with pytest.raises(RequestError) as error:
        session.generate(parts, PARAMS, **options)
    assert says in str(error.value)
    assert before == (list(session.entries), list(session.store.pool.refs), session.last, session.total)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ttl_s": 0}, "found 0"),
        ({"ttl_s": float("nan")}, "found nan"),
        ({"min_tokens": 0}, "found 300.0, 0"),
        ({"capacity": 15}, "15 tokens in blocks of 16"),
        ({"block_size": 12}, "power of two"),
        ({"block_size": 0}, "tokens in blocks of 0"),
    ],
)
def test_a_session_that_makes_no_sense_is_refused(llm, options, says):
    with pytest.raises(MiniLLMError) as error:
        Session(llm, **options)
    assert says in str(error.value)


# --- prices ---------------------------------------------------------------------------------------------------------------


def test_a_bill_by_hand():
    """At 3 and 15 per million: 100 plain, 2,000 written, 10,000 read, 50 out."""
    usage = Usage(100, 2_000, 10_000, 50)
    prices = Prices(input=3, output=15)
    assert prices.cost(usage) == pytest.approx((100 * 3 + 2_000 * 3.75 + 10_000 * 0.3 + 50 * 15) / 1e6) == pytest.approx(0.01155)
    assert prices.cost_without_cache(usage) == pytest.approx((12_100 * 3 + 50 * 15) / 1e6) == pytest.approx(0.03705)
    assert Prices.from_scheme(3, 15, ONE_HOUR).cost(usage) == pytest.approx((300 + 2_000 * 6 + 3_000 + 750) / 1e6)
    assert Prices.from_scheme(3, 15, FIVE_MINUTES) == prices
    assert prices.cost(Usage()) == 0


def test_the_break_even_of_the_two_published_schemes():
    assert (FIVE_MINUTES.ttl_s, ONE_HOUR.ttl_s) == (300, 3600)
    assert break_even_reuses(FIVE_MINUTES.write, FIVE_MINUTES.read) == pytest.approx(0.25 / 0.9) == pytest.approx(0.28, abs=0.005)
    assert break_even_reuses(ONE_HOUR.write, ONE_HOUR.read) == pytest.approx(1 / 0.9) == pytest.approx(1.11, abs=0.005)
    assert break_even_reuses(1.0, 0.5) == break_even_reuses(0.5, 2.0) == 0
    assert break_even_reuses(1.25, 1.0) == float("inf")


@pytest.mark.parametrize(("scheme", "reuses"), [(FIVE_MINUTES, 1), (ONE_HOUR, 2)])
def test_caching_pays_from_the_first_whole_reuse_after_break_even(scheme, reuses):
    prices, first, again = Prices.from_scheme(1, 1, scheme), Usage(0, 1000, 0, 0), Usage(0, 0, 1000, 0)
    bills = [first, first + again, first + again + again]
    pays = [prices.cost(bill) < prices.cost_without_cache(bill) for bill in bills]
    assert pays.index(True) == reuses


def test_what_a_session_used_can_be_billed(session):
    for question in ([1], [2, 3], [4]):
        ask(session, *kept(MANUAL), question)
    assert session.total == Usage(4, 20, 40, 3 * ANSWER)
    assert Prices(1, 2).cost(session.total) == pytest.approx((4 + 20 * 1.25 + 40 * 0.1 + 9 * 2) / 1e6)


@pytest.mark.parametrize("bad", [{"input": -1}, {"output": float("nan")}, {"write": -0.1}, {"read": float("inf")}])
def test_prices_that_make_no_sense_are_refused(bad):
    name, value = next(iter(bad.items()))
    with pytest.raises(MiniLLMError, match=f"found {name} = {value}"):
        Prices(**({"input": 1, "output": 1} | bad))


def test_a_break_even_of_negative_prices_is_refused():
    with pytest.raises(MiniLLMError, match="found -1 and 0.1"):
        break_even_reuses(-1, 0.1)
