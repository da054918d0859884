"""BPE training: equal to a naive trainer and to a recorded one, exact in size, the same whatever the order, strict with corpora.

The naive trainer below counts all pairs of all words again before every merge. tests/golden/bpe_training.json was recorded by
tests/golden/record_bpe_training.py from `tokenizers`.
"""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.errors import TokenizerError
from minillm.formats.gguf import open_gguf
from minillm.formats.gguf_write import write_gguf
from minillm.model.tokenizer import Tokenizer
from minillm.model.tokenizer.pretokenize import pretokenize
from minillm.training import bpe_train
from minillm.training.bpe_train import count_words, learn_merges, train_bpe

GOLDEN = json.loads((Path(__file__).parent / "golden" / "bpe_training.json").read_text())
STORY = GOLDEN[0]["text"]
END = "<|endoftext|>"

PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]  # GPT-2's alphabet, written out once more
LETTERS = [chr(b) for b in PRINTABLE] + [chr(256 + i) for i in range(256 - len(PRINTABLE))]
FACE = dict(zip([*PRINTABLE, *(b for b in range(256) if b not in PRINTABLE)], LETTERS, strict=True))


def naive(words, how_many, special=()):
    """The definition: count every pair, merge the most frequent; ties by the age of the left token, then of the right."""
    tokens, merges = list(LETTERS), []
    corpus = [([FACE[b] for b in word.encode()], n) for word, n in words.items()]
    while len(merges) < how_many:
        counts = {}
        for symbols, n in corpus:
            for pair in zip(symbols, symbols[1:], strict=False):
                counts[pair] = counts.get(pair, 0) + n
        allowed = [p for p, n in counts.items() if n >= 2 and p[0] + p[1] not in tokens and p[0] + p[1] not in special]
        if not allowed:
            break
        best = min(allowed, key=lambda p: (-counts[p], tokens.index(p[0]), tokens.index(p[1])))
        merges.append(best)
        tokens.append(best[0] + best[1])
        for symbols, _ in corpus:
            i = 0
            while i + 1 < len(symbols):
                if (symbols[i], symbols[i + 1]) == best:
                    symbols[i : i + 2] = [best[0] + best[1]]
                i += 1
    return merges


few = st.text("ab", min_size=1, max_size=24)  # two letters: runs, overlaps, ties and one text by several ways
some = st.text("abcé🦊", min_size=1, max_size=10)


@given(st.dictionaries(few | some, st.integers(1, 9), min_size=1, max_size=12), st.integers(0, 60))
def test_merges_are_those_of_the_naive_trainer(words, how_many):
    merges = learn_merges(words, how_many)
    assert merges == naive(words, how_many)
    assert len({a + b for a, b in merges}) == len(merges), "a text that is two tokens"


@given(st.dictionaries(few, st.integers(1, 9), min_size=1, max_size=12), st.sets(st.text("ab", min_size=2, max_size=4)))
def test_so_they_are_with_special_tokens_in_the_way(words, special):
    merges = learn_merges(words, 60, special)
    assert merges == naive(words, 60, special)
    assert not {a + b for a, b in merges} & special


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
def test_a_story_gives_the_merges_of_the_naive_trainer(pre):
    words = count_words([STORY], pre)
    assert learn_merges(words, 1000) == naive(words, 1000)


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: f"{row['name']}-{row['pre']}")
def test_merges_are_those_of_tokenizers(row):
    expected = row["merges"]
    found = learn_merges(count_words([row["text"]], row["pre"]), 4096)
    assert [" ".join(pair) for pair in found] == expected and len(expected) > 90
    metadata = train_bpe([row["text"]], 257 + 80, pre=row["pre"])
    assert metadata["tokenizer.ggml.merges"] == expected[:80] and metadata["tokenizer.ggml.pre"] == row["pre"]


# What training says and what the tokenizer does


def segmentation(words, merges):
    """Each word as training left it: the merges replayed one after another over the whole word."""
    for word in words:
        symbols = [FACE[b] for b in word.encode()]
        for a, b in merges:
            i = 0
            while i + 1 < len(symbols):
                if (symbols[i], symbols[i + 1]) == (a, b):
                    symbols[i : i + 2] = [a + b]
                i += 1
        yield symbols


@pytest.fixture(scope="module")
def trained():
    metadata = train_bpe([STORY], 257 + 80)
    return metadata, Tokenizer.from_gguf(metadata)


def test_encoding_a_word_gives_the_tokens_that_training_left(trained):
    metadata, tokenizer = trained
    merges = [tuple(m.split(" ")) for m in metadata["tokenizer.ggml.merges"]]
    words = list(count_words([STORY]))
    for word, symbols in zip(words, segmentation(words, merges), strict=True):
        assert [tokenizer.vocabulary.tokens[i] for i in tokenizer.encode(word)] == symbols, word


@given(st.text() | st.lists(st.sampled_from([END, "the ", "fox", "\x00", "é", "🦊", "\r\n", " "])).map("".join))
def test_text_comes_back_and_never_holds_a_special_token(text):
    tokenizer = Tokenizer.from_gguf(train_once())
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not set(ids) & tokenizer.vocabulary.control_ids


@given(st.binary())
def test_any_bytes_come_back(data):
    tokenizer = Tokenizer.from_gguf(train_once())
    ids = tokenizer.model.byte_ids
    assert None not in ids and b"".join(tokenizer.token_bytes(ids[b]) for b in data) == data


def train_once(kept={}):  # noqa: B006
    if not kept:
        kept.update(train_bpe([STORY], 300))
    return kept


def test_the_vocabulary_is_bytes_then_merges_in_their_order_then_special(trained):
    metadata, tokenizer = trained
    tokens, merges = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.merges"]
    assert len(tokens) == len(set(tokens)) == tokenizer.vocab_size == 337
    assert tokens[:256] == LETTERS
    assert tokens[256:336] == [m.replace(" ", "") for m in merges] and len(merges) == 80
    assert tokens[336:] == [END] and metadata["tokenizer.ggml.token_type"] == [1] * 336 + [3]
    older = {text: i for i, text in enumerate(tokens)}
    assert all(older[half] < 256 + rank for rank, m in enumerate(merges) for half in m.split(" "))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.eos_ids, tokenizer.add_bos) == (336, 336, {336}, False)
    assert tokenizer.encode(f"a{END}", special=True) == [64, 336]


@pytest.mark.parametrize("extra", [0, 1, 37])
@pytest.mark.parametrize("special", [(END,), ("<s>", "</s>"), ("<|start|>", "<|user|>", "<|end|>")])
def test_the_size_is_exact_and_special_tokens_are_first_and_last(special, extra):
    metadata = train_bpe([STORY], 256 + len(special) + extra, special, add_bos=True)
    tokenizer = Tokenizer.from_gguf(metadata)
    assert tokenizer.vocab_size == 256 + len(special) + extra and len(metadata["tokenizer.ggml.merges"]) == extra
    assert tokenizer.special_tokens == {name: 256 + extra + i for i, name in enumerate(special)}
    assert tokenizer.encode("") == [256 + extra] and tokenizer.eos_id == 256 + extra + len(special) - 1


def test_a_special_token_is_made_by_no_merge():
    """Ġfox, as a name, is how the vocabulary writes " fox": the word stays in pieces, the name is the special token's."""
    metadata = train_bpe([" fox" * 50, " foxes" * 9], 256 + 1 + 4, "Ġfox")
    tokenizer = Tokenizer.from_gguf(metadata)
    assert metadata["tokenizer.ggml.tokens"].count("Ġfox") == 1 and tokenizer.special_tokens == {"Ġfox": 260}
    assert 260 not in tokenizer.encode(" fox foxes Ġfox") and len(tokenizer.encode(" fox")) > 1
    assert tokenizer.decode(tokenizer.encode(" fox")) == " fox"


def test_a_special_token_in_the_corpus_cuts_and_counts_for_nothing():
    assert count_words([f"one{END}two{END}"], special=[END]) == count_words(["one", "two"])
    assert "endoftext" in count_words([f"one{END}two"]), "without special, it is text like any other"
    with pytest.raises(TokenizerError, match="corpus is empty: expected text, found none in 1 document"):
        train_bpe([END * 9], 300)


def test_the_order_of_documents_and_how_they_are_cut_change_nothing():
    lines = STORY.splitlines(keepends=True) * 2
    shuffled = random.Random(0).sample(lines, len(lines))
    assert train_bpe(lines, 400) == train_bpe(shuffled, 400) == train_bpe(iter([s.encode() for s in lines]), 400)
    assert train_bpe(STORY, 300) == train_bpe([STORY], 300) == train_bpe(STORY.encode(), 300)


# Work and bad input


def test_work_is_on_distinct_words(monkeypatch):
    """The same text 50 times is counted 50 times, and merged once."""
    calls = []
    monkeypatch.setattr(bpe_train, "replaced", lambda *a, real=bpe_train.replaced: calls.append(a[1]) or real(*a))
    once = learn_merges(count_words([STORY + " "] * 2), 150)
    first, distinct = len(calls), len(count_words([STORY]))
    assert learn_merges(count_words([STORY + " "] * 100), 150) == once
    assert len(calls) == 2 * first
    assert first < 150 * distinct / 10, f"{first:,} words were gone through in 150 merges of {distinct:,} words"


def test_a_long_word_is_cut():
    """A megabyte without a space: what a merge goes through stays short, and equal pieces are one."""
    pieces = bpe_train.cut_long({"ab" * 500_000: 1, "ab" * 64: 5})
    assert pieces == {"ab" * 64: 7_812 + 5, "ab" * 32: 1}
    assert learn_merges({"ab" * 500_000: 1}, 3) == [("a", "b"), ("ab", "ab"), ("abab", "abab")]


@pytest.mark.parametrize("documents, found", [([], "0"), ([""], "1"), (["", b""], "2"), ("", "1")])
def test_an_empty_corpus(documents, found):
    with pytest.raises(TokenizerError, match=f"corpus is empty: expected text, found none in {found} documents"):
        train_bpe(documents, 300)


@pytest.mark.parametrize(
    "bad, message",
    [
        (b"ab\xff\xfe", "document 2: expected UTF-8, found byte 0xff at offset 2 of 4"),
        ("é".encode()[:1], "document 2: expected UTF-8, found byte 0xc3 at offset 0 of 1"),
        ("a\ud800", r"document 2 is not valid Unicode: lone surrogate U\+D800 at character 1 of 2"),
        (None, "document 2: expected text or its UTF-8, found NoneType"),
        (3, "document 2: expected text or its UTF-8, found int"),
    ],
)
def test_a_corpus_that_is_not_text(bad, message):
    with pytest.raises(TokenizerError, match=message):
        train_bpe(["fine", bad], 300)


def test_a_corpus_too_small_says_how_far_it_goes():
    most = 257 + len(naive(count_words([STORY]), 9999))
    assert len(train_bpe([STORY], most)["tokenizer.ggml.tokens"]) == most
    with pytest.raises(TokenizerError, match=f"too small for a vocabulary of 4,096 tokens: .* distinct words give {most:,},"):
        train_bpe([STORY], 4096)
    with pytest.raises(TokenizerError, match=f"{most + 1:,} tokens.* give {most:,},"):
        train_bpe([STORY], most + 1)


@pytest.mark.parametrize("size", [0, -1, 256, 300.0, True, "1024", None, np.int64(3)])
def test_a_vocabulary_without_room(size):
    with pytest.raises(TokenizerError, match=r"vocab_size: expected .*at least 257 \(256 bytes and 1 special\), found"):
        train_bpe([STORY], size)


@pytest.mark.parametrize("special", [(), "", ("a", "a"), ("",), (3,), ("x",), ("Ġ",), ("\ud800",)])
def test_special_tokens_that_cannot_be(special):
    with pytest.raises(TokenizerError, match="special tokens"):
        train_bpe([STORY], 300, special)


def test_a_pre_tokenizer_that_is_none():
    with pytest.raises(TokenizerError, match="tokenizer.ggml.pre is 'gpt-5'; supported: gpt-2"):
        train_bpe([STORY], 300, pre="gpt-5")
    assert train_bpe([STORY], 300, pre="gpt2")["tokenizer.ggml.pre"] == "gpt-2"


@pytest.mark.parametrize("merges", [0, 40])
def test_the_tokenizer_survives_a_file(tmp_path, merges):
    metadata = train_bpe([STORY], 257 + merges)
    write_gguf(tmp_path / "t.gguf", {"general.architecture": "llama"} | metadata, {})
    with open_gguf(tmp_path / "t.gguf") as file:
        again = Tokenizer.from_gguf(file.metadata)
    first = Tokenizer.from_gguf(metadata)
    assert again.encode(STORY) == first.encode(STORY) and again.vocabulary == first.vocabulary
    assert len(again.encode(STORY)) <= len(pretokenize(STORY, "gpt-2")) * 6
