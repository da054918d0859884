"""The tokenizer: equal to other implementations, lossless, closed to injection, never quadratic, strict with files.

tests/golden/tokenization.json was recorded by tests/golden/record_tokenization.py from `tokenizers` and `sentencepiece`, with
llama.cpp as a second witness.
"""

import json
import random
import subprocess
import sys
import tracemalloc
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from watchdog import watchdog

from minillm.errors import TokenizerError
from minillm.formats.gguf import open_gguf
from minillm.model.tokenizer import Tokenizer
from minillm.model.tokenizer import merge as merge_module
from minillm.model.tokenizer.bpe import BYTE_TO_CHAR, byte_symbols
from minillm.model.tokenizer.merge import WordCache, merge
from minillm.model.tokenizer.pretokenize import PATTERNS, pretokenize

PRES = ["gpt-2", "smollm", "llama-bpe", "qwen2"]
KINDS = [*PRES, "sentencepiece"]


@lru_cache
def golden() -> dict:
    return json.loads((Path(__file__).parent / "golden" / "tokenization.json").read_text())


def gguf_metadata(kind: str) -> dict:
    """The recorded vocabulary as a GGUF reader gives it."""
    if kind == "sentencepiece":
        recorded = golden()["sentencepiece"]
        metadata = {"model": "llama", "tokens": recorded["tokens"], "scores": recorded["scores"], "token_type": recorded["types"]}
        metadata |= {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0, "add_bos_token": False}
    else:
        recorded = golden()["bpe"]
        types = [3] * recorded["n_special"] + [1] * (len(recorded["tokens"]) - recorded["n_special"])
        metadata = {"model": "gpt2", "pre": kind, "tokens": recorded["tokens"], "merges": recorded["merges"], "token_type": types}
        metadata |= {"bos_token_id": 1, "eos_token_id": 2, "add_bos_token": False}
    return {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}


@lru_cache
def tokenizer(kind: str) -> Tokenizer:
    return Tokenizer.from_gguf(gguf_metadata(kind))


tricky = st.sampled_from(
    ["<|im_end|>", "<|endoftext|>", "</s>", "<s>", "<unk>", "<0x0A>", "<tool>", "\u2581", " ", "  ", "\n", "\r\n", "\t",
     "'s", "'S", "12345", "\U0001f469\u200d\U0001f467", "e\u0301", "Ġ", "\x00", "the", "\ufffd"]
)  # fmt: skip
texts = st.text() | st.lists(tricky | st.text(max_size=3)).map("".join)


# ---- equal to other implementations


@pytest.mark.parametrize("kind", KINDS)
def test_ids_equal_the_recorded_ones_on_300_strings(kind):
    strings = golden()["strings"]
    recorded = golden()["sentencepiece"]["ids"] if kind == "sentencepiece" else golden()["bpe"]["ids"][kind]
    assert len(strings) == len(recorded) == 300
    for text, ids in zip(strings, recorded, strict=True):
        if kind == "sentencepiece" and "\u2581" in text:
            continue  # SentencePiece takes a written ▁ for a space; ours keeps it (test_round_trip)
        assert tokenizer(kind).encode(text) == ids, f"{text!r}"


@pytest.mark.model
def test_ids_equal_the_recorded_ones_with_the_vocabulary_of_smollm2(smollm2_path):
    real = Tokenizer.from_gguf(open_gguf(smollm2_path).metadata)
    strings = golden()["strings"]
    for text, ids in zip(strings, golden()["smollm2"]["ids"], strict=True):
        assert real.encode(text) == ids, f"{text!r}"
        if not real.model.missing_bytes & set(text.encode()):
            assert real.decode(ids) == text
    assert (real.bos_id, real.eos_id, real.eos_ids, real.vocab_size) == (1, 2, {0, 2}, 49152)
    assert len(real.special_tokens) == 17


def test_the_second_witness_differs_only_where_it_is_known_to():
    """llama.cpp: a byte without a token keeps its neighbours apart; no space prefix before a user-defined token."""
    strings, recorded = golden()["strings"], golden()
    assert [strings[i] for i in recorded["smollm2"]["llama_cpp_differs"]] == [" \x04!"]
    assert not any(recorded["bpe"]["llama_cpp_differs"].values())
    assert all("<tool>" in strings[i] for i in recorded["sentencepiece"]["llama_cpp_differs"])


# ---- lossless


@pytest.mark.parametrize("kind", KINDS)
@given(text=texts)
@example(text=" ")
@example(text="\u2581 \u2581\u2581  x ")
@example(text=" <tool> <tool>")
def test_round_trip(kind, text):
    assert tokenizer(kind).decode(tokenizer(kind).encode(text)) == text


@pytest.mark.parametrize("kind", KINDS)
@given(parts=st.lists(tricky | st.text(max_size=3)))
def test_round_trip_with_control_tokens_recognized(kind, parts):
    text = "".join(parts)
    assert tokenizer(kind).decode(tokenizer(kind).encode(text, special=True)) == text


@given(text=texts, pre=st.sampled_from(list(PATTERNS)))
def test_pretokenization_loses_nothing(text, pre):
    words = pretokenize(text, pre)
    assert "".join(words) == text
    assert all(words)


def test_llama_3_and_qwen_2_cut_contractions_in_any_case_and_gpt2_only_in_lower_case():
    for pre in ("llama-bpe", "qwen2"):
        assert pretokenize("IT'SX it'ſx", pre) == ["IT", "'S", "X", " it", "'ſ", "x"]
    assert pretokenize("IT'SX it'sx", "gpt-2") == ["IT", "'", "SX", " it", "'s", "x"]


def test_the_default_pre_tokenizer_cuts_punctuation_off_and_digits_in_threes():
    assert pretokenize("it's 12345!", "default") == ["it", "'", "s", " ", "123", "45", "!"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_lone_surrogate_is_refused_by_name(kind):
    with pytest.raises(TokenizerError, match=r"U\+D800 at character 2 of 4"):
        tokenizer(kind).encode("ab\ud800c")


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_that_are_not_utf8_become_replacement_characters(kind):
    if kind == "sentencepiece":
        name = "<0x{:02X}>"
        ids = [tokenizer(kind).vocabulary.ids[name.format(byte)] for byte in (0xF0, 0x9F, 0x41)]
    else:
        ids = [tokenizer(kind).vocabulary.ids[BYTE_TO_CHAR[byte]] for byte in (0xF0, 0x9F, 0x41)]
    assert tokenizer(kind).decode(ids) == "\ufffdA"
    assert b"".join(map(tokenizer(kind).token_bytes, ids)) == b"\xf0\x9f\x41"


def test_a_byte_without_a_token_is_dropped_and_the_rest_survives():
    tokens = [char for byte, char in BYTE_TO_CHAR.items() if byte != 4]
    lacking = Tokenizer(tokens, [])
    assert lacking.model.missing_bytes == {4}
    assert lacking.decode(lacking.encode("a\x04b")) == "ab"


def test_a_character_without_token_or_bytes_is_the_unknown_token_or_an_error():
    tokens, scores, types = ["<unk>", "\u2581", "a"], [0.0, -1.0, -2.0], [2, 1, 1]
    assert Tokenizer(tokens, scores=scores, token_types=types, unknown_id=0).encode("aéa") == [1, 2, 0, 2]
    with pytest.raises(TokenizerError, match="'é' has no token"):
        Tokenizer(tokens, scores=scores, token_types=types).encode("aé")


def test_a_vocabulary_of_bytes_alone_is_lossless_too():
    tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    t = Tokenizer(tokens, scores=[0.0] * 256, token_types=[6] * 256)
    assert t.encode("a b") == list(b" a b")
    assert t.decode(t.encode(" é \u2581")) == " é \u2581"


def test_the_space_prefix_belongs_to_the_start_of_a_text_and_after_a_control_token():
    t = tokenizer("sentencepiece")
    prompt, more = t.encode("Hello"), t.encode("world")
    assert t.decode(prompt + more) == "Hello world"
    assert (t.decode(more), t.decode(more, after=prompt), t.decode(more, after=[1])) == ("world", " world", "world")
    bare = Tokenizer.from_gguf(gguf_metadata("sentencepiece") | {"tokenizer.ggml.add_space_prefix": False})
    assert bare.decode(bare.encode(" x")) == " x"
    assert len(bare.encode("x")) == 1


# ---- the merge loop


def merge_by_definition(symbols: list, table: dict) -> list:
    """Scan for the best pair, leftmost first, until there is none."""
    symbols = list(symbols)
    while True:
        pairs = [(*table[pair], i) for i in range(len(symbols) - 1) if (pair := (symbols[i], symbols[i + 1])) in table]
        if not pairs:
            return symbols
        _, merged, i = min(pairs, key=lambda entry: (entry[0], entry[2]))
        symbols[i : i + 2] = [merged]


@given(symbols=st.lists(st.sampled_from("abc"), max_size=40), rules=st.integers(0, 40), seed=st.integers(0), ties=st.booleans())
@example(symbols=list("abcd"), rules=-1, seed=0, ties=False)
def test_merging_equals_its_definition(symbols, rules, seed, ties):
    rng, known, table = random.Random(seed), ["a", "b", "c"], {}
    for _ in range(rules):
        pair = (rng.choice(known), rng.choice(known))
        table.setdefault(pair, (rng.randrange(3 if ties else 1000), "".join(pair)))
        known.append("".join(pair))
    if rules < 0:  # the entry (1, a b) is stale once b and c have merged: a may not merge with bc before bc and d do
        table = {("a", "b"): (1, "ab"), ("b", "c"): (0, "bc"), ("a", "bc"): (3, "abc"), ("bc", "d"): (2, "bcd")}
    before = list(symbols)
    assert merge(symbols, table.get) == merge_by_definition(symbols, table)
    assert symbols == before


@pytest.mark.parametrize("kind", ["gpt-2", "sentencepiece"])
@pytest.mark.parametrize(
    ("text", "size"),
    [(" ", 100_000), ("a", 100_000), ("the", 100_000), ("xyz0é\u4e00", 100_000),
     pytest.param(" ", 1_000_000, marks=pytest.mark.slow)],  # spaces merge most: the worst case in full
    ids=["space", "a", "the", "mixed", "a million spaces"],
)
def test_a_long_text_without_a_break_takes_a_linear_number_of_heap_operations(kind, text, size, monkeypatch):
    """n symbols: n - 1 pairs at the start, and at most two new ones for each of at most n - 1 merges."""
    pops = 0

    def counted(heap):
        nonlocal pops
        pops += 1
        return heappop(heap)

    heappop = merge_module.heapq.heappop
    monkeypatch.setattr(merge_module.heapq, "heappop", counted)
    text = (text * size)[:size]
    with watchdog(120):
        ids = tokenizer(kind).encode(text)
    assert pops <= 3 * len(text.encode())
    assert tokenizer(kind).decode(ids) == text


def test_the_word_cache_is_bounded():
    made = []
    cache = WordCache(lambda word: made.append(word) or [len(word)], size=3, longest=5)
    for word in ["a", "bb", "a", "toolong", "toolong", "ccc", "dddd"]:
        assert cache[word] == (len(word),)
    assert made == ["a", "bb", "toolong", "toolong", "ccc", "dddd"]
    assert list(cache) == ["dddd"]


def test_llama_3_takes_a_word_that_is_a_token_though_the_merges_do_not_build_it():
    tokens = [*BYTE_TO_CHAR.values(), "abc"]
    assert Tokenizer(tokens, [], pre="llama-bpe").encode("abc") == [256]
    assert len(Tokenizer(tokens, [], pre="qwen2").encode("abc")) == 3


def test_bytes_are_written_as_gpt2_writes_them():
    assert byte_symbols(b" hi\n\x00\xff~") == "ĠhiĊĀÿ~"
    assert len(set(BYTE_TO_CHAR.values())) == 256


# ---- streaming


def stream(t: Tokenizer, ids: list[int], **kwargs) -> list[str]:
    detokenizer = t.stream(**kwargs)
    return [detokenizer.push(i) for i in ids] + [detokenizer.flush()]


@pytest.mark.parametrize("kind", ["gpt-2", "sentencepiece"])
@given(data=st.data(), skip=st.booleans())
def test_a_stream_adds_up_to_decode_for_any_tokens(kind, data, skip):
    t = tokenizer(kind)
    ids = data.draw(st.lists(st.integers(0, 300) | st.integers(0, t.vocab_size - 1)))
    after = data.draw(st.lists(st.integers(0, 10), max_size=2))
    assert "".join(stream(t, ids, after=after, skip_special=skip)) == t.decode(ids, skip_special=skip, after=after)


@pytest.mark.parametrize("kind", ["gpt-2", "sentencepiece"])
@given(text=texts)
def test_a_stream_gives_each_character_with_its_last_byte_and_never_half_of_it(kind, text):
    t = tokenizer(kind)
    ids, sent, data = t.encode(text), "", b""
    detokenizer = t.stream()
    for n, i in enumerate(ids):
        sent += detokenizer.push(i)
        data += t.token_bytes(i)
        if n == 0 and kind == "sentencepiece":
            data = data[1:]
        assert sent == data.decode("utf-8", "ignore")  # of a prefix of valid UTF-8, "ignore" drops only the unfinished character
    assert sent == text
    assert detokenizer.flush() == ""


def test_an_emoji_comes_whole_and_an_unfinished_one_is_replaced_at_the_end():
    t = tokenizer("gpt-2")
    ids = [t.vocabulary.ids[BYTE_TO_CHAR[byte]] for byte in "😀".encode()]
    assert stream(t, ids) == ["", "", "", "😀", ""]
    assert stream(t, ids[:3]) == ["", "", "", "\ufffd"]


# ---- control tokens


@pytest.mark.parametrize("kind", KINDS)
@given(parts=st.lists(tricky | st.text(max_size=3)))
def test_text_never_becomes_a_control_token(kind, parts):
    t = tokenizer(kind)
    assert not set(t.encode("".join(parts))) & set(t.special_tokens.values())


@pytest.mark.parametrize("kind", KINDS)
def test_control_tokens_are_recognized_where_asked(kind):
    t = tokenizer(kind)
    name = "</s>" if kind == "sentencepiece" else "<|im_end|>"
    ids = t.encode(f"a{name}{name}b", special=True)
    assert ids.count(t.special_tokens[name]) == 2
    assert t.decode(ids) == f"a{name}{name}b"
    assert t.decode(ids, skip_special=True) == "ab"


def test_a_merge_into_a_control_token_is_left_out():
    tokens = [*BYTE_TO_CHAR.values(), "en", "end"]
    types = [1] * 257 + [3]
    for pre in ("gpt-2", "llama-bpe"):  # llama-bpe also looks whole words up
        t = Tokenizer(tokens, ["e n", "en d"], token_types=types, pre=pre)
        assert t.encode("end") == [256, t.vocabulary.ids["d"]]
        assert t.encode("end", special=True) == [257]
    pieces = ["<unk>", "\u2581", "<", "s", ">", "<s", "<s>"]
    t = Tokenizer(pieces, scores=[0.0] * 7, token_types=[2, 1, 1, 1, 1, 1, 3], space_prefix=False)
    assert t.encode("<s>") == [5, 4]


def test_an_end_of_turn_that_the_file_calls_user_defined_or_normal_is_a_control_token_all_the_same():
    for kind in (1, 4):
        t = Tokenizer([*BYTE_TO_CHAR.values(), "<|im_end|>", "<think>"], [], token_types=[1] * 256 + [kind, 4])
        assert 256 not in t.encode("<|im_end|>")
        assert t.eos_ids == {256}
        assert t.special_tokens == {"<|im_end|>": 256}


def test_a_plain_token_that_the_file_declares_as_end_stays_encodable():
    newline = list(BYTE_TO_CHAR.values()).index("Ċ")
    t = Tokenizer(list(BYTE_TO_CHAR.values()), [], eos_id=newline)
    assert t.encode("\n") == [newline]
    assert t.eos_ids == {newline}


def test_user_defined_tokens_are_words_of_the_text_and_the_longest_wins():
    t = Tokenizer([*BYTE_TO_CHAR.values(), "<a", "<a>", "two words"], [], token_types=[1] * 256 + [4, 4, 4])
    assert t.encode("<a><atwo words") == [257, 256, 258]
    assert t.decode([257, 256, 258]) == "<a><atwo words"
    t = Tokenizer([*BYTE_TO_CHAR.values(), "<é>"], [], token_types=[1] * 256 + [4])
    assert t.token_bytes(256) == "<é>".encode()  # text as it is, not the byte alphabet's é for 0xE9


@pytest.mark.parametrize("kind", ["gpt-2", "sentencepiece"])
def test_the_begin_token_comes_when_asked_or_when_the_file_says(kind):
    t = tokenizer(kind)
    assert t.encode("a", bos=True) == [1, *t.encode("a")]
    adding = Tokenizer.from_gguf(gguf_metadata(kind) | {"tokenizer.ggml.add_bos_token": True})
    assert adding.encode("a") == t.encode("a", bos=True)
    assert adding.encode("a", bos=False) == t.encode("a")


@pytest.mark.parametrize(("kind", "adds"), [("gpt-2", False), ("qwen2", False), ("llama-bpe", True), ("sentencepiece", True)])
def test_a_silent_file_means_what_llama_cpp_takes_it_to_mean(kind, adds):
    metadata = gguf_metadata(kind)
    del metadata["tokenizer.ggml.add_bos_token"]
    assert Tokenizer.from_gguf(metadata).add_bos is adds


def test_a_tokenizer_without_a_begin_token_refuses_to_add_one():
    with pytest.raises(TokenizerError, match="bos_token_id"):
        Tokenizer(list(BYTE_TO_CHAR.values()), []).encode("a", bos=True)


# ---- files from strangers


def test_numeric_arrays_may_be_numpy():
    metadata = gguf_metadata("sentencepiece")
    for key in ("scores", "token_type", "bos_token_id", "add_bos_token"):
        metadata[f"tokenizer.ggml.{key}"] = np.array(metadata[f"tokenizer.ggml.{key}"])
    metadata["tokenizer.ggml.scores"] = metadata["tokenizer.ggml.scores"].astype(np.float32)
    assert Tokenizer.from_gguf(metadata).encode("Hello world") == tokenizer("sentencepiece").encode("Hello world")


MISSING = object()
BAD = [
    ("gpt-2", "model", MISSING, "gpt2 .* or llama .*found nothing"),
    ("gpt-2", "model", "bert", "found 'bert'"),
    ("gpt-2", "pre", "tekken", "'tekken'; supported: gpt-2, smollm, llama-bpe, qwen2, default"),
    ("gpt-2", "pre", 7, "pre: expected text, found 7"),
    ("gpt-2", "tokens", MISSING, "tokens: expected a list of strings, found nothing"),
    ("gpt-2", "tokens", [], "token_type: expected 0 numbers, found 1,000"),
    ("gpt-2", "tokens", "abc", "expected a list of strings, found 'abc'"),
    ("gpt-2", "tokens", ["a", b"b"], r"tokens\[1\]: expected a string, found b'b'"),
    ("gpt-2", "tokens", ["a\ud800"] * 1000, r"tokens\[0\]: expected Unicode text, found a lone surrogate in"),
    ("gpt-2", "token_type", [1, 1, 1], "token_type: expected 1,000 numbers, found 3"),
    ("gpt-2", "token_type", [9] * 1000, "types 0 to 6, found 9"),
    ("gpt-2", "token_type", ["x"] * 1000, r"token_type\[0\]: expected a whole number, found 'x'"),
    ("gpt-2", "token_type", 3, "expected an array of 1,000 numbers, found 3"),
    ("gpt-2", "merges", MISSING, "merges: expected a list of strings, found nothing"),
    ("gpt-2", "merges", ["t h", "th"], r"merges\[1\]: expected two tokens with one space between, found 'th'"),
    ("gpt-2", "merges", ["t h", "t  h"], r"merges\[1\]: expected two tokens"),
    ("gpt-2", "merges", ["t h", "t 日"], r"merges\[1\] is 't 日', but '日' is none of the 1,000 tokens"),
    ("gpt-2", "merges", ["q z"], r"merges\[0\] is 'q z', but 'qz' is none of the 1,000 tokens"),
    ("gpt-2", "merges", [1, 2], r"merges\[0\]: expected a string, found 1"),
    ("gpt-2", "eos_token_id", 1000, "expected a whole number from 0 to 999, found 1,000"),
    ("gpt-2", "bos_token_id", -1, "expected a whole number from 0 to 999, found -1"),
    ("gpt-2", "eot_token_id", "2", "expected a whole number from 0 to 999, found '2'"),
    ("gpt-2", "bos_token_id", True, "expected a whole number from 0 to 999, found True"),
    ("gpt-2", "add_bos_token", "yes", "expected true or false, found 'yes'"),
    ("sentencepiece", "scores", MISSING, "scores"),
    ("sentencepiece", "scores", [0.0], "scores: expected 800 numbers, found 1"),
    ("sentencepiece", "scores", [float("nan")] * 800, r"scores\[0\]: expected a finite number, found nan"),
    ("sentencepiece", "scores", ["a"] * 800, "expected a finite number, found 'a'"),
    ("sentencepiece", "tokens", ["a"], "token_type: expected 1 numbers, found 800"),
]


@pytest.mark.parametrize(("kind", "key", "value", "says"), BAD, ids=[f"{key}-{i}" for i, (_, key, _, _) in enumerate(BAD)])
def test_a_file_that_is_wrong_is_refused_in_one_line_that_names_the_key(kind, key, value, says):
    metadata = gguf_metadata(kind)
    metadata.pop(f"tokenizer.ggml.{key}", None)
    if value is not MISSING:
        metadata[f"tokenizer.ggml.{key}"] = value
    with pytest.raises(TokenizerError, match=says) as caught:
        Tokenizer.from_gguf(metadata)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_adding_a_begin_token_that_the_file_does_not_name_is_refused():
    metadata = gguf_metadata("gpt-2") | {"tokenizer.ggml.add_bos_token": True}
    del metadata["tokenizer.ggml.bos_token_id"]
    with pytest.raises(TokenizerError, match="bos_token_id is missing"):
        Tokenizer.from_gguf(metadata)


@given(data=st.data())
def test_a_mutated_file_loads_or_is_refused(data):
    kind = data.draw(st.sampled_from(["gpt-2", "sentencepiece"]))
    metadata = gguf_metadata(kind)
    scalars = st.none() | st.integers() | st.floats() | st.text(max_size=5)
    junk = scalars | st.lists(scalars, max_size=5)
    key = data.draw(st.sampled_from(sorted(metadata)))
    value = metadata[key]
    if isinstance(value, list) and data.draw(st.booleans()):
        value = list(value)
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(junk)
    else:
        value = data.draw(junk)
    try:
        t = Tokenizer.from_gguf(metadata | {key: value})
        t.decode(t.encode("Hello <|im_end|> wörld \u2581", special=True))
    except TokenizerError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("i", [-1, 1000, 10**9])
def test_an_id_outside_the_vocabulary_is_refused(i):
    with pytest.raises(TokenizerError, match=f"token id {i} is outside the vocabulary of 1,000 tokens"):
        tokenizer("gpt-2").decode([1, i])


def test_importing_the_tokenizer_imports_neither_regex_nor_jinja2():
    code = "import sys, minillm.model.tokenizer; sys.exit(bool({'regex', 'jinja2'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_tokenizer_keeps_a_vocabulary_and_a_table_of_merges_and_no_more():
    """268 bytes a merge: a dict of texts and one of pairs. A copy of the first, or the texts of merges, make it 320."""
    chars = sorted(BYTE_TO_CHAR.values())
    tokens = chars + [a + b for a in chars for b in chars[:100]]
    merges = [f"{a} {b}" for a in chars for b in chars[:100]]
    tracemalloc.start()
    try:
        made = Tokenizer(tokens, merges=merges)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert made.decode(made.encode("ab")) == "ab"
    assert kept / len(merges) < 300
