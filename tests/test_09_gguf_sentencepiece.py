"""SentencePiece's tokenizer from both of its files, and back: the ids of sentencepiece, of transformers and of `tokenizers`.

tests/golden/tokenizer_model.json was recorded by tests/golden/record_tokenizer_model.py.
"""

import base64
import json
import random
import time
import tracemalloc
from copy import deepcopy
from pathlib import Path

import pytest
from golden import converted_models
from hypothesis import example, given
from hypothesis import strategies as st
from test_01_inference_tokenizer import golden

from minillm.errors import TokenizerError
from minillm.model.hf_sentencepiece import merges_from_scores
from minillm.model.hf_tokenizer import tokenizer_metadata
from minillm.model.sentencepiece_model import fields, varint
from minillm.model.tokenizer import Tokenizer
from minillm.model.write_tokenizer import tokenizer_files

RECORDED = json.loads((Path(__file__).parent / "golden" / "tokenizer_model.json").read_text(encoding="utf-8"))
MODEL_FILE, JSON_FILE = base64.b64decode(RECORDED["tokenizer.model"]), RECORDED["tokenizer.json"]
OPTIONS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
SPACE = "\u2581"
PREPEND, REPLACE = {"type": "Prepend", "prepend": SPACE}, {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
LEGACY = {"normalizer": {"type": "Sequence", "normalizers": [PREPEND, REPLACE]}, "pre_tokenizer": None}


def from_json(folder, options=None, model=None, **change):
    """Metadata of the recorded tokenizer.json with these keys changed."""
    values = deepcopy(JSON_FILE) | change
    values["model"] |= model or {}
    (folder / "tokenizer.json").write_text(json.dumps(values))
    (folder / "tokenizer_config.json").write_text(json.dumps(OPTIONS | (options or {})))
    return tokenizer_metadata(folder)


def from_model_file(folder, data=MODEL_FILE, **options):
    (folder / "tokenizer.model").write_bytes(data)
    (folder / "tokenizer_config.json").write_text(json.dumps(OPTIONS | options))
    return tokenizer_metadata(folder)


def metaspace(scheme, **more):
    return {"pre_tokenizer": {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": False} | more}


# --- the ids of others ------------------------------------------------------------------------------------------------------


def test_tokenizer_model_gives_the_ids_of_sentencepiece(tmp_path):
    ours = Tokenizer.from_gguf(from_model_file(tmp_path))
    for text, ids in RECORDED["sentencepiece"]:
        assert ours.encode(text, bos=False) == ids and ours.decode(ids) == text, text
    assert (ours.bos_id, ours.eos_id, ours.unknown_id, ours.add_bos, ours.vocab_size) == (1, 2, 0, True, 420)


@pytest.mark.parametrize("scheme", ["always", "first"])
def test_tokenizer_json_gives_the_ids_of_transformers(tmp_path, scheme):
    metadata = from_json(tmp_path, **metaspace(scheme))
    ours = Tokenizer.from_gguf(metadata)
    for text, ids in RECORDED[scheme]:
        assert ours.encode(text, special=True, bos=False) == ids, text
    assert metadata["tokenizer.minillm.metaspace"] == scheme
    assert RECORDED["always"] != RECORDED["first"] and dict(RECORDED["always"])[" the"] != dict(RECORDED["sentencepiece"])[" the"]


def test_both_files_give_one_order_of_merges(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    a, b = from_model_file(tmp_path / "a"), from_json(tmp_path / "b", **LEGACY)
    assert a["tokenizer.ggml.tokens"] == b["tokenizer.ggml.tokens"]
    tokens, types = a["tokenizer.ggml.tokens"], a["tokenizer.ggml.token_type"]
    one, other = (merges_from_scores(tokens, m["tokenizer.ggml.scores"], types) for m in (a, b))
    theirs = [tuple(pair) for pair in JSON_FILE["model"]["merges"]]
    assert one == other and sorted(one) == sorted(theirs) and len(one) > len({"".join(pair) for pair in one})
    assert ["".join(pair) for pair in one] == ["".join(pair) for pair in theirs], "the order of the tokens that are made"
    one, other = Tokenizer.from_gguf(a), Tokenizer.from_gguf(b)
    for text in golden()["strings"]:
        assert one.encode(text, bos=False) == other.encode(text, bos=False), text


WRITTEN = {
    "with a space in front": {},
    "without": {"tokenizer.ggml.add_space_prefix": False},
    "Metaspace": {"tokenizer.minillm.metaspace": "always"},
    "Metaspace, first": {"tokenizer.minillm.metaspace": "first"},
}


@pytest.fixture(scope="module", params=WRITTEN)
def written(request, tmp_path_factory):  # -> our tokenizer, the library's of the file that we wrote, ours of that file
    tokenizers = pytest.importorskip("tokenizers", reason="the library that the files are made for: pip install tokenizers")
    folder = tmp_path_factory.mktemp("written")
    metadata = converted_models.tokenizer("sentencepiece") | WRITTEN[request.param]
    for name, values in tokenizer_files(metadata).items():
        (folder / name).write_text(json.dumps(values))
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    return Tokenizer.from_gguf(metadata), theirs, Tokenizer.from_gguf(tokenizer_metadata(folder))


words = st.sampled_from(["the", "<s>", "</s>", "<0x0A>", " ", "  ", "\n", "aaa", "é", "☃", "😀", "<tool>", "\x00", "1234"])
spoken = (st.text() | st.lists(words | st.text(max_size=3)).map("".join)).filter(
    lambda text: SPACE not in text and "<unk>" not in text  # which is to us a character of the text, and to others a token apart
)


@given(text=spoken, special=st.booleans())
@example(text=" <s> the", special=True)
@example(text="", special=True)
@example(text="<s><s>a b</s> c", special=True)
def test_a_written_tokenizer_json_gives_the_library_our_ids(written, text, special):
    ours, theirs, back = written
    if not special:  # control tokens in a text are text to us, where the library always finds them
        for token in ours.special_tokens:
            text = text.replace(token, token[:1] + " " + token[1:])
    ids = ours.encode(text, special=special)
    assert theirs.encode(text).ids == ids == back.encode(text, special=special)


def test_the_librarys_text_of_ids_is_ours(written):
    ours, theirs, _ = written
    for text in golden()["strings"]:
        if SPACE not in text and not any(token in text for token in ours.special_tokens):
            assert theirs.decode(theirs.encode(text).ids) == ours.decode(ours.encode(text), skip_special=True), text


def test_a_space_prefix_of_metaspace_is_lost_in_decoding_and_no_other(tmp_path):
    first = Tokenizer.from_gguf(from_json(tmp_path, **metaspace("first")))
    assert first.encode(" the") == first.encode("the") and first.decode(first.encode(" the")) == "the"
    assert first.decode(first.encode("the  fox ")) == "the  fox "
    assert first.encode("the", bos=False, after=[2]) != first.encode("the", bos=False)
    assert first.decode([2, *first.encode("the", bos=False)]) == "</s> the"


# --- what would give other tokens --------------------------------------------------------------------------------------------

VOCAB, MERGES = JSON_FILE["model"]["vocab"], JSON_FILE["model"]["merges"]
APART = [MERGES[1], MERGES[0], *MERGES[2:]]
ADDED = {"id": 420, "content": "<tool>", "special": False, "normalized": False}
TWO = [i for i in range(1, len(MERGES)) if "".join(MERGES[i]) == "".join(MERGES[i - 1])]  # a token with two merges: their place
SPLIT = [*MERGES[: TWO[0]], MERGES[TWO[0] + 1], MERGES[TWO[0]], *MERGES[TWO[0] + 2 :]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": {"merges": MERGES[:-1]}}, "merges: expected every cut of a token into two, as scores have it, found none of"),
        ({"model": {"merges": SPLIT}}, "merges: expected those of .* together, as scores have it, found one after those of"),
        ({"model": {"vocab": VOCAB | {"xe": 420}}}, "merges: expected every cut of a token into two"),
        ({"model": {"vocab": VOCAB | {"☃": 420, "☃☄": 421}}}, "vocab: expected a token for each character of a token"),
        ({"model": {"merges": ["a b c"]}}, r"merges\[0\]: expected two tokens, found 'a b c'"),
        ({"model": {"ignore_merges": True}}, "ignore_merges: expected False"),
        ({"model": {"unk_token": "<nix>"}}, "unk_token: expected a token of the vocabulary, found '<nix>'"),
        ({"model": {"dropout": 0.1}}, "dropout: expected 0.0"),
        ({"added_tokens": [*JSON_FILE["added_tokens"], ADDED]}, "added_tokens: expected special ones alone.*'<tool>'"),
        ({"normalizer": {"type": "NFC"}}, "normalizer: expected SentencePiece's, which puts"),
        ({"pre_tokenizer": None, "normalizer": {"type": "Sequence", "normalizers": [REPLACE, PREPEND]}}, "expected Sentence"),
        (metaspace("first", split=True), "split: expected False, found True"),
        (metaspace("first", replacement="_"), "replacement: expected"),
        (metaspace("sometimes"), "prepend_scheme: expected 'always' or 'first' or 'never', found 'sometimes'"),
        (metaspace("first", of_tomorrow=1), "of_tomorrow: expected no such key"),
        ({"decoder": {"type": "WordPiece"}}, "decoder.type: expected 'Replace' or"),
        ({"options": {"add_eos_token": True}}, "add_eos_token: expected False"),
        ({"options": {"bos_token": "<nix>"}}, "bos_token: expected a token of tokenizer.json"),
    ],
)
def test_a_tokenizer_json_that_scores_cannot_say_is_refused_by_name(tmp_path, change, says):
    with pytest.raises(TokenizerError, match=says) as error:
        from_json(tmp_path, **change)
    assert "\n" not in str(error.value)


def test_every_form_of_the_space_in_front_is_recognized(tmp_path):
    for change, prefix, scheme in (
        (LEGACY, True, None), ({"pre_tokenizer": None, "normalizer": REPLACE}, False, None), (metaspace("never"), False, None),
        (metaspace(None, add_prefix_space=True), True, "always"), (metaspace(None, add_prefix_space=False), False, None),
    ):  # fmt: skip
        metadata = from_json(tmp_path, **change)
        assert metadata["tokenizer.ggml.add_space_prefix"] == prefix
        assert metadata.get("tokenizer.minillm.metaspace") == scheme
    types = metadata["tokenizer.ggml.token_type"]
    assert (types.count(6), types[3], types[258], types[1]) == (256, 6, 6, 3)


def test_merges_into_control_tokens_are_left_out(tmp_path):
    """Llama 2's list has such merges, from a vocabulary that holds "<s" too: text must not become a control token."""
    vocab = VOCAB | {"<": 420, "s>": 421, "<s": 422, ">": VOCAB.get(">", 423)}
    merges = [["<", "s>"], ["<s", ">"], *MERGES, ["s", ">"], ["<", "s"]]
    vocab |= {text: 420 + i for i, text in enumerate(("<", "s>", "<s", ">")) if text not in VOCAB}
    ours = Tokenizer.from_gguf(from_json(tmp_path, model={"vocab": vocab, "merges": merges}, **LEGACY))
    assert 1 not in ours.encode("a<s>", bos=False) and ours.encode("a<s>", special=True, bos=False)[-1] == 1


def test_scores_that_merges_cannot_say_are_refused():
    tokens, scores = ["<unk>", "a", "b", "ab", "ba"], [0.0, -3.0, -4.0, -1.0, -1.0]
    with pytest.raises(TokenizerError, match="expected a score of its own for each merged token, found one for 'ab' and 'ba'"):
        merges_from_scores(tokens, scores, [2, 1, 1, 1, 1])
    assert merges_from_scores(tokens, [0, 0, 0, -2.0, -1.0], [2, 1, 1, 1, 1]) == [("b", "a"), ("a", "b")]
    long = ["x" * 8000]
    with pytest.raises(TokenizerError, match="at most 50,000,000 squared characters in all, found 64,000,000"):
        merges_from_scores(long, [0.0], [1])


# --- tokenizer.model ----------------------------------------------------------------------------------------------------------


def message(*pairs):  # [(number, int, float or bytes)] -> bytes of a protobuf message
    def number(n):
        return bytes([n & 127 | (128 if n > 127 else 0)]) + (number(n >> 7) if n > 127 else b"")

    out = b""
    for field, value in pairs:
        if isinstance(value, bytes):
            out += number(field << 3 | 2) + number(len(value)) + value
        else:
            out += number(field << 3) + number(value % 2**64)
    return out


def piece(text, kind=None):
    return 1, message((1, text.encode()), *([(3, kind)] if kind else []))


SMALL = [piece("<unk>", 2), piece("<s>", 3), piece("</s>", 3), piece(SPACE), piece("a")]
IDENTITY = (3, message((4, 0)))


def test_a_message_is_read_field_by_field():
    data = message((1, b"ab"), (40, -1), (300, 2**33), (1, b""))
    assert list(fields(data)) == [(1, b"ab"), (40, 2**64 - 1), (300, 2**33), (1, b"")]
    assert varint(b"\x96\x01", 0) == (150, 2)  # the example of protobuf's own guide


def test_absent_fields_have_their_meaning(tmp_path):
    found = from_model_file(tmp_path, message(*SMALL, (2, message((3, 2))), IDENTITY))
    assert found["tokenizer.ggml.tokens"] == ["<unk>", "<s>", "</s>", SPACE, "a"]
    assert found["tokenizer.ggml.scores"] == [0.0] * 5 and found["tokenizer.ggml.token_type"] == [2, 3, 3, 1, 1]
    assert found["tokenizer.ggml.add_space_prefix"] and found["tokenizer.ggml.unknown_token_id"] == 0
    bare = from_model_file(tmp_path, message(*SMALL, (2, message((3, 2), (40, -1))), (3, message((3, 0), (4, 0)))), legacy=False)
    assert not bare["tokenizer.ggml.add_space_prefix"] and "tokenizer.ggml.unknown_token_id" not in bare
    once = from_model_file(tmp_path, message(*SMALL, (2, message((3, 2))), IDENTITY), legacy=False)
    assert once["tokenizer.minillm.metaspace"] == "first"


def test_a_user_defined_piece_is_text_around_which_spaces_stay_as_sentencepiece_has_them(tmp_path):
    data = message(*SMALL, piece(f"{SPACE}<tool>", 4), (2, message((3, 2))), IDENTITY)
    found = from_model_file(tmp_path, data)
    assert found["tokenizer.ggml.tokens"][5] == " <tool>" and found["tokenizer.ggml.token_type"][5] == 4, "as llama.cpp writes it"
    assert Tokenizer.from_gguf(found).encode("a <tool>a", bos=False) == [3, 4, 5, 4]


def test_special_tokens_that_were_added_have_their_ids(tmp_path):
    data = message(*SMALL, (2, message((3, 2))), IDENTITY)
    added = {str(5 + i): {"content": text, "special": True} for i, text in enumerate(["<|im_start|>", "<|im_end|>"])}
    found = from_model_file(tmp_path, data, added_tokens_decoder=added | {"1": {"content": "<s>", "special": True}})
    assert found["tokenizer.ggml.tokens"][5:] == ["<|im_start|>", "<|im_end|>"]
    assert found["tokenizer.ggml.token_type"][5:] == [3, 3] and found["tokenizer.ggml.scores"] == [0.0] * 7
    with pytest.raises(TokenizerError, match="added_tokens_decoder.5: expected a special token, beside .*, found 'x'"):
        from_model_file(tmp_path, data, added_tokens_decoder={"5": {"content": "x"}})
    (tmp_path / "added_tokens.json").write_text('{"<more>": 5}')
    with pytest.raises(TokenizerError, match="added_tokens.json: expected a token of .*, found '<more>'"):
        from_model_file(tmp_path, data)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (message(*SMALL, IDENTITY), "expected a model of type BPE, found Unigram"),
        (message(*SMALL, (2, message((3, 3))), IDENTITY), "expected a model of type BPE, found Word"),
        (message(*SMALL, (2, message((3, 2)))), "text is changed before it is cut, by fewer spaces, which is not supported"),
        (message(*SMALL, (2, message((3, 2))), (3, message((2, b"x"), (4, 0)))), "by a table of characters"),
        (message(*SMALL, (2, message((3, 2))), (3, message((4, 0), (5, 0)))), "by spaces unmarked"),
        (message(*SMALL, (2, message((3, 2), (24, 1))), IDENTITY), "by spaces behind words"),
        (message((2, message((3, 2))), IDENTITY), "expected pieces, found none"),
        (message((1, message((1, b"\xff")))), "is no SentencePiece model"),
        (message((1, 7)), "is no SentencePiece model"),
        (message((1, message((1, 7)))), "is no SentencePiece model"),
        (message(*SMALL)[:-1], "is no SentencePiece model: its fields do not end where the file does"),
        (b"GGUF" + bytes(20), "is no SentencePiece model"),
        (b"\x80" * 99, "is no SentencePiece model"),
    ],
)
def test_another_file_is_refused_by_name(tmp_path, data, says):
    with pytest.raises(TokenizerError, match=says) as error:
        from_model_file(tmp_path, data)
    assert "tokenizer.model: " in str(error.value)


def test_ids_beyond_the_models_are_refused_before_names_are_made(tmp_path):
    from_model_file(tmp_path)
    with pytest.raises(TokenizerError, match="expected at most 419 pieces, found more"):
        tokenizer_metadata(tmp_path, 419)


def test_hundreds_of_damaged_files_load_or_are_refused(tmp_path):
    rng, outcomes = random.Random(5), []
    for n in range(400):
        data = bytearray(MODEL_FILE)
        for _ in range(rng.randint(1, 3)):
            at, size = rng.randrange(len(data)), rng.randint(1, 4)
            data[at : at + size] = rng.randbytes(size if n % 4 else rng.randint(0, 9))  # of one length, most pieces stay readable
        begin = time.process_time()
        if n % 50 == 0:
            tracemalloc.start()
        try:
            Tokenizer.from_gguf(from_model_file(tmp_path, bytes(data))).encode("the fox <s>")
            outcomes.append("loads")
        except TokenizerError as error:
            assert "\n" not in str(error)
            outcomes.append("refused")
        assert time.process_time() - begin < 1
        if tracemalloc.is_tracing():
            assert tracemalloc.get_traced_memory()[1] < 50_000_000
            tracemalloc.stop()
    assert min(outcomes.count("loads"), outcomes.count("refused")) > 40
