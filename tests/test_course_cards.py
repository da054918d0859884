"""Cards: every deck in the repository keeps the contract, every number is recomputed, every mistake is named."""

import pytest

from minillm.course.interview.cards import CardError, cards_folder, choose_decks, read_deck, read_decks
from minillm.course.interview.expressions import NAMES, FormulaError, evaluate
from minillm.model.presets import PRESETS

DECKS = sorted(cards_folder().glob("*.toml"))
CARD = """
[[card]]
id = "04.3"
level = "mid"
question = "How many tokens of KV cache fit?"
answer = "Some 42,000."
"""
NUMERIC = 'numeric = { expression = "kv_tokens(\'llama-3-8b\', memory=24e9)", expect = 42000, within = 0.1 }\n'


def out_of_date(card):  # -> what is wrong with its number, or None
    value = evaluate(card.numeric.expression)
    if not card.numeric.accepts(value):
        return f"card {card.id}: {card.numeric.expression} = {value:,.6g}, the answer expects {card.numeric.expect:,.6g}"
    return None


def broken_promises(cards):  # -> what a deck lacks
    found = [] if 12 <= len(cards) <= 24 else [f"{len(cards)} cards, a deck has 12 to 24"]
    return found + [text for card in cards if card.numeric and (text := out_of_date(card))]


def test_every_deck_keeps_the_contract():
    if not DECKS:
        pytest.skip("no decks are written yet: lessons/cards/NN_name.toml")
    broken = {path.name: found for path in DECKS if (found := broken_promises(read_deck(path)))}
    assert not broken, broken


def test_ids_are_unique_over_all_decks():
    if not DECKS:
        pytest.skip("no decks are written yet: lessons/cards/NN_name.toml")
    ids = [card.id for deck in read_decks().values() for card in deck]
    assert len(ids) == len(set(ids)), sorted(i for i in ids if ids.count(i) > 1)


@pytest.fixture
def deck(tmp_path):
    def write(text, name="04_paged_attention.toml"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def test_a_card_has_what_its_table_says(deck):
    more = 'tags = ["memory"]\nfollow_ups = ["And with 32k?"]\nexperiment = "minillm tour"\n' + NUMERIC
    (card,) = read_deck(deck(CARD + more))
    assert (card.id, card.deck, card.tags, card.experiment) == ("04.3", "04_paged_attention", ("memory",), "minillm tour")
    assert card.numeric.expect == 42000 and card.follow_ups == ("And with 32k?",) and out_of_date(card) is None


def test_the_contract_bites(deck):
    (card,) = read_deck(deck(CARD + NUMERIC.replace("42000", "52000")))
    found = broken_promises([card])
    assert "1 cards, a deck has 12 to 24" in found[0] and "42,262" in found[1] and "52,000" in found[1]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (CARD + 'anwser = "x"\n', "unknown field 'anwser'; did you mean 'answer'?"),
        (CARD + CARD, "occurs twice"),
        (CARD.replace('level = "mid"\n', ""), "level missing"),
        (CARD.replace('"mid"', '"expert"'), "junior, mid, senior, found 'expert'"),
        (CARD.replace("04.3", "05.3"), "04.k with k from 1, found '05.3'"),
        (CARD.replace("04.3", "04.0"), "04.k"),
        (CARD.replace('"Some 42,000."', '"  "'), "answer must be a text that is not empty"),
        (CARD.replace('"Some 42,000."', "42000"), "answer must be a text that is not empty, found 42000"),
        (CARD + 'tags = ["two words"]\n', "one word"),
        (CARD + "follow_ups = [3]\n", "follow_ups is a list of texts"),
        (CARD + NUMERIC.replace("within = 0.1", "within = 10"), "between 0 and 1"),
        (CARD + NUMERIC.replace("42000", "0"), "not 0"),
        (CARD + NUMERIC.replace("42000", "nan"), "not 0"),
        (CARD + NUMERIC.replace("expect", "expected"), "unknown field 'expected'; did you mean 'expect'?"),
        (CARD + NUMERIC.replace("42000", "true"), "expect must be a number"),
        ("[card]\nid = '04.1'\n", "[[card]]"),
        ("card = [1]\n", "[[card]]"),
        ("", "found nothing"),
        ("[[card\n", "not valid TOML"),
    ],
)
def test_a_mistake_is_named_with_file_and_card(deck, text, says):
    with pytest.raises(CardError) as error:
        read_deck(deck(text))
    assert says in str(error.value) and "04_paged_attention.toml" in str(error.value)
    if "[[card]]" in text:
        assert "0" in str(error.value).split("card ")[1], "the card is named"


def test_a_deck_is_called_like_its_lesson(deck):
    with pytest.raises(CardError, match="NN_name"):
        read_deck(deck(CARD, "paged.toml"))


def test_a_deck_is_found_by_number_name_or_both():
    decks = {"02_kv_cache": ["a"], "04_paged_attention": ["b"]}
    for name in ("04", "4", "04_paged_attention", "paged_attention"):
        assert choose_decks(decks, name) == {"04_paged_attention": ["b"]}
    with pytest.raises(CardError, match="did you mean '02_kv_cache'"):
        choose_decks(decks, "kv_cahe")
    with pytest.raises(CardError, match="there are: 02_kv_cache, 04_paged_attention"):
        choose_decks(decks, "")


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("1 + 2 * 3 - 8 / 4 // 1", 5),
        ("-(2 ** 10) % 1000", -1024 % 1000),
        ("model('llama-3-8b').kv_bytes_per_token(2)", 2 * 32 * 8 * 128 * 2),
        ("model('llama-3-8b').kv_bytes_per_token(bytes_per_value=1) / KiB", 64),
        ("model('llama-2-7b').n_heads", 32),
        ("model('llama-2-7b').parameters()", 6_738_415_616),  # counted by transformers
        ("kv_tokens('llama-3-8b', memory=24e9, utilization=0.9, weight_bits=16)", 42262),
        ("kv_tokens('llama-3-70b', memory=24e9)", 0),  # the weights alone do not fit
        ("kv_tokens('llama-3-8b', 24e9, kv_bits=8)", 84525),  # (21.6e9 - 2 · 8,030,261,248) / 65,536
        ("ridge_batch(flops=989e12, bandwidth=3.35e12)", 989 / 3.35),
        ("ridge_batch(flops=989e12, bandwidth=3.35e12, bytes_per_weight=0.5)", 989 / 3.35 / 4),
        ("training_bytes('llama-2-7b')", 16 * 6_738_415_616),
        ("decode_ceiling('llama-2-7b', bandwidth=1e12)", 1e12 / (2 * (6_738_415_616 - 32000 * 4096 - 65 * 4096))),
        ("decode_ceiling('llama-3-8b', 1e12, batch=8) / decode_ceiling('llama-3-8b', 1e12)", 8),
        ("1 / decode_time('llama-3-8b', 1e12, bits=4.5) / decode_ceiling('llama-3-8b', 1e12)", 16 / 4.5),
        ("1e12 * (decode_time('llama-3-8b', 1e12, context=1000) - decode_time('llama-3-8b', 1e12))", 1000 * 131_072),
        ("prefill_time('llama-3-8b', 100, flops=1e12) * 1e12", PRESETS["llama-3-8b"].prefill_flops(100)),
        ("generation_flops('llama-3-8b', 10, 1)", PRESETS["llama-3-8b"].prefill_flops(10)),
        ("attention_scores_bytes(32, 8192) / GiB", 4),
        ("attention_scores_bytes(1, 10, bytes_per_value=4)", 400),
        ("attention_flops(10, 3)", 1200),
        ("standard_traffic(10, 3)", 120 + 400),
        ("flash1_traffic(10, 3, block_k=4)", 60 + 3 * 30 * 3),  # three column tiles, the last of 2 keys
        ("flash2_traffic(10, 3, block_q=5)", 60 + 2 * 30 * 2),
        ("rescale(1, 3) * rescale(3, 1)", 1),
        ("rescale(0, 1)", 0.36787944117144233),
        ("blocks_for(32)", 2),
        ("blocks_for(33)", 3),
        ("blocks_for(0)", 0),
        ("paged_waste(7.5)", 0.5),  # 7.5 slots empty in the last block, on average
        ("paged_waste(100, block_size=1)", 0),
        ("reserved_waste(1024, 8192)", 0.875),
        ("forked_blocks(10, 3, samples=2, block_size=4)", 2 + 2 * 2),  # 8 tokens shared; 8 … 12 in two blocks each
        ("forked_blocks(8, 1, samples=3, block_size=4)", 2 + 3),
        ("forked_blocks(10, 3, samples=1, block_size=4)", 4),
        ("swap_time('llama-3-8b', 1000, 131072)", 1000),
        ("swap_time('llama-3-8b', 1000, 131072, kv_bits=8)", 500),
        ("reusable(33, 32)", 32),
        ("reusable(32, 32)", 16),  # the last token is computed, and its block with it
        ("reusable(100, 31)", 16),
        ("reusable(1, 1)", 0),
        ("collision_probability(2, 1)", 0.5),
        ("collision_probability(1, 8)", 0),
        ("collision_probability(100, 3)", 1),
        ("break_even_reuses(write=1.25, read=0.1)", 0.25 / 0.9),
        ("break_even_reuses(2, 0.1)", 1 / 0.9),
        ("cached_price(1, 1.25, 0.1)", 1.25),
        ("cached_price(10, 1.25, 0.1)", 0.215),
        ("step_time('llama-3-8b', 1e30, 1e12, 2, 50) - decode_time('llama-3-8b', 1e12, context=50, batch=2)", 0),
        ("step_time('llama-3-8b', 1e30, 131072, chunk=1, cached=9) - step_time('llama-3-8b', 1e30, 131072)", 9),
        ("step_time('llama-3-8b', 1e12, 1e30, chunk=9, cached=5) * 1e12 - model('llama-3-8b').prefill_flops(9, 5)", 0),
        ("step_time('llama-3-8b', 1e12, 1e30, 3, 7) * 1e12 / model('llama-3-8b').decode_flops(0)", 3),
        ("static_slots(1)", 1),
        ("static_slots(4)", 25 / 12),
        ("queue_wait(0.8, 3)", 12),
        ("queue_wait(0.8, 3, cv=0)", 6),
        ("queue_wait(0, 3, cv=9)", 0),
        ("expected_tokens(0.2, 3)", 1.248),
        ("expected_tokens(0.8, 4)", 3.3616),
        ("expected_tokens(1, 4)", 5),
        ("speculative_speedup(0.8, 4, cost=0)", 3.3616),
        ("speculative_speedup(0.8, 4, 0.25)", 1.6808),
        ("type_bits('Q4_0')", (32 * 4 + 16) / 32),
        ("type_bits('Q6_K')", (256 * 6 + 16 * 8 + 16) / 256),
        ("max(1, min(5, 3))", 3),
    ],
)
def test_a_formula_gives_what_a_hand_calculation_gives(expression, expected):
    assert evaluate(expression) == pytest.approx(expected, rel=1e-9)


def test_without_a_cache_each_token_costs_the_whole_sequence():
    c = PRESETS["smollm2-135m"]
    with_cache = c.prefill_flops(10) + sum(c.decode_flops(n) for n in (11, 12))
    without = c.prefill_flops(10) + c.prefill_flops(11) + c.prefill_flops(12)
    assert evaluate("generation_flops('smollm2-135m', 10, 3)") == with_cache
    assert evaluate("generation_flops('smollm2-135m', 10, 3, cache=False)") == without > 2 * with_cache


@pytest.mark.parametrize(
    ("mix", "gib"),
    [("q8_0", 7.96), ("q6_k", 6.14), ("q5_k_m", 5.33), ("q4_k_m", 4.58), ("q4_0", 4.34), ("q3_k_m", 3.74), ("q2_k", 2.96)],
)
def test_the_size_of_a_mix_is_that_of_llama_cpps_table(mix, gib):
    """Llama-3-8B, from tools/quantize/quantize.cpp; a file has the tokenizer, 8 MB, as well."""
    found = evaluate(f"model('llama-3-8b').weight_bytes(mix_bits('llama-3-8b', '{mix}')) / GiB")
    assert found < gib + 0.005 < found + 0.025


@pytest.mark.parametrize(
    "expression",
    [
        "type_bits('Q4')", "mix_bits('llama-3-8b', 'q4')",
        "__import__('os').system('true')", "().__class__.__bases__", "model.__globals__", "model('llama-3-8b').__class__",
        "open('x')", "model('llama-3-8b').parameters.__func__", "[1 for x in (1,)][0]", "(lambda: 1)()", "eval('1')", "'a' * 10",
        "'a' + 'b'", "model('llama-3-8b')", "model", "9**9**9**9", "1 / 0", "10**309", "(-1) ** 0.5", "True", "1j",
        "1 if 1 else 2", "1 < 2", "", "1 +", "x", "kv_tokens()", "kv_tokens('nope', 1)", "kv_tokens(*[1, 2])", "min(**{})",
        "f'{1}'", "model('llama-3-8b').__sizeof__()", "2 @ 2", "~1", "(" * 5000 + "1" + ")" * 5000, "1; 2", "a := 1", "1e999",
    ],
)  # fmt: skip
def test_an_expression_can_calculate_and_nothing_else(expression):
    with pytest.raises(FormulaError) as error:
        evaluate(expression)
    assert str(error.value).startswith(repr(expression))


def test_a_text_is_not_multiplied():
    with pytest.raises(FormulaError, match="'a' is no number"):
        evaluate("'a' * 1000000000")


def test_the_guide_for_authors_names_every_formula():
    guide = (cards_folder() / "README.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if name not in guide] == []
