"""SentencePiece where the vocabulary does not cover the text: <unk>, and the spaces around it.

tests/golden/sentencepiece.json was recorded from sentencepiece by tests/golden/record_sentencepiece.py.
"""

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from test_01_inference_tokenizer import stream, texts
from test_01_inference_tokenizer import tokenizer as recorded

from minillm.model.tokenizer import Tokenizer

RECORDED = json.loads((Path(__file__).parent / "golden" / "sentencepiece.json").read_text())
SURFACE = " \u2047 "  # how SentencePiece writes an unknown token; here it is "<unk>"


def tokenizer(**options):
    arguments = {"scores": RECORDED["scores"], "token_types": RECORDED["types"], "bos_id": 1, "eos_id": 2, "unknown_id": 0}
    return Tokenizer(RECORDED["tokens"], **arguments | options)


def test_texts_have_the_tokens_that_sentencepiece_gives_them():
    for text, ids in RECORDED["encode"]:
        assert tokenizer().encode(text) == ids, text
    assert max(ids.count(0) for _, ids in RECORDED["encode"]) > 1


def test_tokens_have_the_text_that_sentencepiece_gives_them():
    for ids, text in RECORDED["decode"]:
        assert tokenizer().decode(ids).replace("<unk>", SURFACE) == text, ids
    assert any(0 in ids[1:-1] for ids, _ in RECORDED["decode"])


def test_a_space_after_an_unknown_character_is_kept():
    t = tokenizer()
    assert t.decode(t.encode("the ☃ the")) == "the <unk> the"
    assert t.decode(t.encode("☃ the")) == "<unk> the"
    assert t.decode(t.encode("the"), after=[0]) == " the" and t.decode(t.encode("the"), after=[1]) == "the"
    assert stream(t, t.encode("the ☃ the"))[-3:] == ["<unk>", " the", ""]


@pytest.mark.parametrize(
    "options",
    [{"token_types": RECORDED["types"]}, {"unknown_id": 0}, {"unknown_id": 0, "token_types": RECORDED["types"]}],
    ids=["type", "id", "both"],
)
def test_which_token_is_the_unknown_one_is_said_by_its_type_or_by_its_id(options):
    t = Tokenizer(RECORDED["tokens"], scores=RECORDED["scores"], eos_id=2, **options)
    the = t.encode("the")
    assert t.decode([*the, 0, *the]) == "the<unk> the"
    assert t.decode([*the, 2, *the]) == "the</s>the", "after a control token a text begins anew"


covered = {c for token, kind in zip(RECORDED["tokens"], RECORDED["types"], strict=True) if kind == 1 for c in token}
known = st.text("".join(sorted(covered)))


@given(text=known.map(lambda text: text.replace("\u2581", " ")))
@example(text="  the  fox ")
def test_a_text_that_the_vocabulary_covers_comes_back(text):
    t = tokenizer()
    assert t.decode(t.encode(text)) == text
    assert "".join(stream(t, t.encode(text))) == text


@given(text=texts, cut=st.integers(0, 20), kind=st.sampled_from(["unknown", "sentencepiece", "gpt-2"]))
@example(text="the ☃ the", cut=4, kind="unknown")
def test_a_text_in_two_comes_back_as_in_one(text, cut, kind):
    """encode and decode with `after`: the second half continues the first."""
    t = tokenizer() if kind == "unknown" else recorded(kind)
    first = t.encode(text[:cut])
    second = t.encode(text[cut:], after=first)
    assert t.decode(first) + t.decode(second, after=first) == t.decode([*first, *second])
    if kind != "unknown":
        assert t.decode([*first, *second]) == text
    assert "".join(stream(t, second, after=first)) == t.decode(second, after=first)


@given(ids=st.lists(st.sampled_from([0, 0, 1, 2]) | st.integers(0, len(RECORDED["tokens"]) - 1)), skip=st.booleans())
def test_a_stream_adds_up_to_decode_with_unknown_tokens(ids, skip):
    t = tokenizer()
    assert "".join(stream(t, ids, skip_special=skip)) == t.decode(ids, skip_special=skip)


def test_a_template_with_an_unknown_token_keeps_its_spaces():
    t = tokenizer(chat_template="{{ unk_token }} the{{ bos_token }}the {{ messages[0].content }}")
    ids = t.apply_chat_template([{"role": "user", "content": "☃ the"}])
    assert t.decode(ids) == "<unk> the<s>the <unk> the"
