"""tokenizer.json is recognized stage by stage, each whole, and gives the ids of `tokenizers`; all else is refused by name."""

import json
import unicodedata
from copy import deepcopy

import pytest
from fuzz_files import BOS, BYTE_LEVEL, CHATML, ENDS, EOS, OPTIONS, TOKENIZER
from test_01_inference_tokenizer import golden

from minillm.errors import MiniLLMError, TokenizerError
from minillm.model.hf_folder import folder_config, tokenizer_metadata
from minillm.model.tokenizer import Tokenizer
from minillm.model.tokenizer.pretokenize import LLAMA3, QWEN2


def split(regex, use_regex=False, **more):
    first = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False} | more
    return {"type": "Sequence", "pretokenizers": [first, BYTE_LEVEL | {"use_regex": use_regex}]}


TEKKEN = (  # of Mistral Nemo: letters by case, a slash behind punctuation
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DIGITS = {"type": "Digits", "individual_digits": True}
KNOWN = {
    "gpt-2": BYTE_LEVEL,
    "smollm": {"type": "Sequence", "pretokenizers": [DIGITS, BYTE_LEVEL]},
    "llama-bpe": split(LLAMA3),
    "qwen2": split(QWEN2),
}


def write(folder, tokenizer=None, options=None, ends=None, **files):
    """A folder whose tokenizer.json and neighbours differ in these keys; None takes a key away."""
    for name, good, change in (
        ("tokenizer", TOKENIZER, tokenizer), ("tokenizer_config", OPTIONS, options), ("generation_config", ENDS, ends),
    ):  # fmt: skip
        values = deepcopy(good) | (change or {})
        (folder / f"{name}.json").write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def load(folder, *args, **kwargs):
    return Tokenizer.from_gguf(tokenizer_metadata(write(folder, *args, **kwargs)))


def with_model(**change):
    return {"model": TOKENIZER["model"] | change}


# --- the stages -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_pre_tokenizer_is_recognized(tmp_path, name):
    assert tokenizer_metadata(write(tmp_path, {"pre_tokenizer": KNOWN[name]}))["tokenizer.ggml.pre"] == name


@pytest.mark.parametrize("name", KNOWN)
def test_a_folder_gives_the_recorded_ids_of_the_tokenizers_library(tmp_path, name):
    recorded = golden()["bpe"]
    vocabulary = {token: i for i, token in enumerate(recorded["tokens"])}
    model = with_model(vocab=vocabulary, merges=recorded["merges"], ignore_merges=name == "llama-bpe")
    change = model | {"pre_tokenizer": KNOWN[name], "added_tokens": [], "normalizer": None, "post_processor": None}
    quiet = dict.fromkeys(("bos_token", "eos_token", "add_bos_token", "added_tokens_decoder"))
    tokenizer = load(tmp_path, change, quiet, ends={"eos_token_id": None})
    for text, expected in zip(golden()["strings"], recorded["ids"][name], strict=True):
        assert tokenizer.encode(text) == expected, text


@pytest.mark.parametrize("normalizer", [None, {"type": "NFC"}], ids=["plain", "nfc"])
@pytest.mark.parametrize("name", KNOWN)
def test_a_folder_gives_the_ids_of_the_tokenizers_library(tmp_path, name, normalizer):
    tokenizers = pytest.importorskip("tokenizers", reason="the library that the files are made for: pip install tokenizers")
    ours = load(tmp_path, {"pre_tokenizer": KNOWN[name], "normalizer": normalizer})
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in [*golden()["strings"], "cafe\u0301 he\u0301 \u1112\u1161\u11ab", "<tool>a<tool>", "hello hel he lo"]:
        plain = text.replace("<|", "< |")  # control tokens in a text are text to us
        assert ours.encode(plain) == theirs.encode(plain).ids, plain


@pytest.mark.parametrize(
    ("described", "says"),
    [
        (split(TEKKEN), "pre_tokenizer: expected that of gpt-2, smollm, llama-bpe, qwen2, to the letter"),
        (split(LLAMA3 + " "), "to the letter"),
        (split(LLAMA3, use_regex=True), "to the letter"),
        (split(LLAMA3, behavior="Removed"), "behavior: expected 'Isolated', found 'Removed'"),
        (split(LLAMA3, invert=True), "invert: expected False"),
        (split(LLAMA3, pattern={"String": " "}), "pattern.Regex: expected text, found nothing"),
        ({"type": "Sequence", "pretokenizers": [split("[\r\n]")["pretokenizers"][0], DIGITS, BYTE_LEVEL]}, "to the letter"),
        ({"type": "Sequence", "pretokenizers": [DIGITS | {"individual_digits": False}, BYTE_LEVEL]}, "to the letter"),
        (BYTE_LEVEL | {"add_prefix_space": True}, "add_prefix_space: expected False, found True"),
        (BYTE_LEVEL | {"of_tomorrow": 1}, "of_tomorrow: expected no such key, found 1"),
        ({"type": "Metaspace"}, "type: expected 'ByteLevel' or 'Digits' or 'Split', found 'Metaspace'"),
        ({"type": "Sequence", "pretokenizers": []}, r"to the letter, found \(\)"),
        ({"type": "Sequence", "pretokenizers": [BYTE_LEVEL] * 99}, "a list of at most 16"),
        ("ByteLevel", "pre_tokenizer: expected an object, found 'ByteLevel'"),
        (None, "pre_tokenizer: expected an object, found nothing"),
    ],
)
def test_any_other_pre_tokenizer_is_refused(tmp_path, described, says):
    with pytest.raises(TokenizerError, match=says):
        load(tmp_path, {"pre_tokenizer": described})


def test_text_is_composed_where_the_normalizer_says_nfc(tmp_path):
    text = "cafe\u0301 <tool> e\u0301"
    assert load(tmp_path).encode(text) == load(tmp_path).encode(unicodedata.normalize("NFC", text))
    plain = load(tmp_path, {"normalizer": None})
    assert plain.encode(text) != plain.encode(unicodedata.normalize("NFC", text))


@pytest.mark.parametrize(
    "normalizer",
    [{"type": "NFD"}, {"type": "Lowercase"}, {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Strip"}]}],
)
def test_another_normalizer_is_refused(tmp_path, normalizer):
    with pytest.raises(TokenizerError, match="type: expected 'NFC', found '"):
        load(tmp_path, {"normalizer": normalizer})


def template(*single, ids=(259,)):
    pieces = [{"Sequence": {"id": "A", "type_id": 0}} if s == "A" else {"SpecialToken": {"id": s, "type_id": 0}} for s in single]
    special = {s: {"id": s, "ids": list(ids), "tokens": [s]} for s in single if s != "A"}
    return {"type": "TemplateProcessing", "single": pieces, "pair": [], "special_tokens": special}


@pytest.mark.parametrize(
    ("processor", "explicit", "adds"),
    [
        (template(BOS, "A"), None, True),
        ({"type": "Sequence", "processors": [{"type": "ByteLevel"}, template(BOS, "A")]}, None, True),  # Llama 3
        (template("A"), None, False),
        ({"type": "ByteLevel"}, None, False),
        (None, None, False),
        (None, True, True),
        (template(BOS, "A"), False, False),
    ],
)
def test_the_begin_token_comes_from_the_post_processor_where_the_options_are_silent(tmp_path, processor, explicit, adds):
    tokenizer = load(tmp_path, {"post_processor": processor}, {"add_bos_token": explicit})
    assert tokenizer.encode("hi")[:-2] == [259] * adds


@pytest.mark.parametrize(
    ("processor", "says"),
    [
        (template(BOS, "A", EOS), "single: expected one text, with at most one token in front"),
        (template("A", EOS), "single: expected one text"),
        (template(BOS, BOS, "A"), "single: expected one text"),
        (template(BOS, "A", ids=(259, 260)), "expected one text, with at most one token in front of it, found 2 tokens"),
        (template(BOS, "A", ids=(99_999,)), "expected a token of the vocabulary, found id 99,999"),
        (template(EOS, "A", ids=(261,)), "bos_token: expected '<|im_end|>', which the post_processor puts in front"),
        ({"type": "BertProcessing", "sep": ["a", 1]}, "type: expected 'ByteLevel' or 'TemplateProcessing'"),
    ],
)
def test_another_post_processor_is_refused(tmp_path, processor, says):
    with pytest.raises(TokenizerError) as error:
        load(tmp_path, {"post_processor": processor})
    assert says in str(error.value)


# --- the vocabulary and what stands beside ----------------------------------------------------------------------------------

ADDED = TOKENIZER["added_tokens"]


@pytest.mark.parametrize(
    ("tokenizer", "options", "says"),
    [
        ({"added_tokens": [*ADDED, {"id": 10**10, "content": "<x>"}]}, {}, "a whole number from 0 to 271, found 10,000,"),
        (with_model(vocab={"a": 10**30}), {}, "vocab['a']: expected a text with an id from 0 to 271, found 1000000"),
        (with_model(vocab={"a": -5}), {}, "found -5"),
        (with_model(vocab={"a": "0"}), {}, "found '0'"),
        (with_model(vocab={"a": 1, "b": 1}), {}, "vocab: expected an id for each token, found 2 tokens with 1 ids"),
        (with_model(vocab={}) | {"added_tokens": []}, {}, "vocab: expected at least one token, found none"),
        (with_model(merges=["a b c"]), {}, "merges[0]: expected two tokens, found 'a b c'"),
        (with_model(merges=[["a", 1]]), {}, "merges[0]: expected two tokens"),
        (with_model(merges=[["z", "z"]]), {}, "'zz' is none of the 263 tokens"),
        (with_model(dropout=0.1), {}, "dropout: expected 0.0, found 0.1"),
        (with_model(end_of_word_suffix="</w>"), {}, "end_of_word_suffix: expected '', found '</w>'"),
        (with_model(byte_fallback=True), {}, "normalizer: expected SentencePiece's, which puts"),
        (with_model(type="Unigram"), {}, "only byte-level BPE and SentencePiece's are read from tokenizer.json, found 'Unigram'"),
        (with_model(unk_token="x", vocab={"a": 0, "x": 1}), {}, "unk_token: expected null"),
        ({"added_tokens": [*ADDED[:-1], {"id": 0, "content": "<x>"}]}, {}, "which are taken"),
        ({"added_tokens": [*ADDED[:-1], {"id": 262, "content": "a"}]}, {}, "which are taken"),
        ({"added_tokens": [*ADDED[:-1], ADDED[-1] | {"lstrip": True}]}, {}, "lstrip: expected False, found True"),
        ({"added_tokens": [ADDED[-1] | {"normalized": True}]}, {}, "normalized: expected false, beside the normalizer NFC"),
        ({"decoder": {"type": "WordPiece"}}, {}, "decoder.type: expected 'ByteLevel'"),
        ({}, {"bos_token": "<none>"}, "bos_token: expected a token of tokenizer.json, found '<none>'"),
        ({}, {"bos_token": ["a"]}, "bos_token: expected text, found ['a']"),
        ({}, {"added_tokens_decoder": {"271": {"content": "<new>"}}}, "added_tokens_decoder.271: expected a token of tokenizer."),
        ({}, {"add_eos_token": True}, "add_eos_token: expected False, found True"),
        ({}, {"chat_template": [{"name": "rag", "template": ""}]}, "one that is called 'default' among several, found ['rag']"),
        ({}, {"chat_template": 7}, "chat_template: expected text, found 7"),
    ],
)
def test_what_would_give_other_tokens_is_refused_with_file_key_and_what_was_found(tmp_path, tokenizer, options, says):
    write(tmp_path, tokenizer, options)
    with pytest.raises(TokenizerError) as error:
        Tokenizer.from_gguf(tokenizer_metadata(tmp_path, 272))
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_huge_id_is_refused_before_a_name_is_made_for_each(tmp_path):
    import tracemalloc

    write(tmp_path, {"added_tokens": [{"id": 5 * 10**6, "content": "<x>"}]})
    tracemalloc.start()
    with pytest.raises(TokenizerError, match="id: expected a whole number from 0 to 999,999, found 5,000,000"):
        tokenizer_metadata(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000, f"{peak:,} bytes"


def test_ignore_merges_decides_whether_a_word_that_is_a_token_is_taken_whole(tmp_path):
    vocabulary = TOKENIZER["model"]["vocab"] | {"hello": 263}  # no merge makes it
    for ignore, expected in ((True, [263]), (False, [258, 256])):
        model = with_model(ignore_merges=ignore, vocab=vocabulary)
        assert load(tmp_path, model | {"post_processor": None}, {"add_bos_token": None}).encode("hello") == expected


def test_ends_come_from_the_generation_config_else_from_the_config(tmp_path):
    assert load(tmp_path).eos_ids == {261, 259}
    assert load(tmp_path, ends={"eos_token_id": 260}).eos_ids == {261, 260, 259}  # <|endoftext|> is a known name
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "config.json").write_text('{"eos_token_id": 3}')
    assert tokenizer_metadata(tmp_path)["tokenizer.minillm.eos_token_ids"] == [3]


@pytest.mark.parametrize("ids", [9999, [258, -1], [1.5], ["a"], [0] * 100, "x", True])
def test_ends_that_are_no_ids_are_refused(tmp_path, ids):
    with pytest.raises(TokenizerError, match="generation_config.json: eos_token_id"):
        load(tmp_path, ends={"eos_token_id": ids})


def test_the_default_of_several_chat_templates_is_taken_and_a_file_wins(tmp_path):
    several = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": CHATML}]
    talk = [{"role": "user", "content": "hi"}]
    assert load(tmp_path, options={"chat_template": several}).chat.render(talk).startswith("<|im_start|>user\nhi<|im_end|>")
    assert load(tmp_path, chat_template__jinja="from a file").chat.render(talk) == "from a file"
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(TokenizerError, match="chat_template.jinja: cannot be read"):
        tokenizer_metadata(tmp_path)


# --- the shape --------------------------------------------------------------------------------------------------------------

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 2,
    "intermediate_size": 64, "vocab_size": 300, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
}  # fmt: skip
LLAMA31 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA31["original_max_position_embeddings"] = 32


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"architectures": [{}]}, "architectures[0]: expected a string, found {}"),
        ({"architectures": {"a": 1}}, "architectures: expected a list of strings"),
        ({"hidden_size": 64.0}, "hidden_size: expected a whole number from 1 to 2,147,483,647, found 64.0"),
        ({"hidden_size": True}, "found True"),
        ({"num_attention_heads": 0}, "num_attention_heads: expected a whole number from 1"),
        ({"num_attention_heads": 10**400}, "found 1000000000"),
        ({"num_key_value_heads": 3}, "2 query heads cannot share 3 KV heads"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps: expected a number from 0 to 1e+30, found nan"),
        ({"rope_theta": "abc"}, "rope_theta: expected a number from 1e-30 to 1e+30, found 'abc'"),
        ({"rope_theta": 10**400}, "rope_theta"),
        ({"rope_scaling": "x"}, "rope_scaling: expected an object, found 'x'"),
        ({"rope_scaling": {"type": "linear", "factor": "x"}}, "rope_scaling.factor: expected a number"),
        ({"rope_scaling": {"type": "longrope", "factor": 2}}, "linear, llama3 or yarn, found 'longrope'"),
        ({"rope_scaling": LLAMA31 | {"high_freq_factor": 1.0}}, "low_freq_factor: expected less than high_freq_factor, 1, fou"),
        ({"rope_scaling": LLAMA31 | {"of_tomorrow": 1}}, "of_tomorrow: expected no such key"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "full_attention: expected no such key"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: expected 1.0, found 0.5"),
        ({"attention_bias": True}, "attention_bias: expected false"),
        ({"mlp_bias": True}, "mlp_bias: expected False, found True"),
        ({"hidden_act": "gelu"}, "hidden_act: expected 'silu', found 'gelu'"),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": "x"}, "sliding_window: expected a whole number"),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 32}, "sliding_window: expected none"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types: expected full_attention alone"),
        ({"quantization_config": {"quant_method": "awq"}}, "weights quantized by 'awq' are not supported"),
    ],
)
def test_a_shape_that_is_none_is_refused_with_file_key_and_what_was_found(tmp_path, change, says):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | change))
    with pytest.raises(MiniLLMError) as error:
        folder_config(tmp_path)
    assert says in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 400


def test_what_changes_nothing_is_accepted(tmp_path):
    more = {"architectures": ["MistralForCausalLM"], "sliding_window": 64, "layer_types": ["full_attention"]}
    more |= {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "attention_bias": False, "of_tomorrow": [1]}
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | more))
    config = folder_config(tmp_path)
    assert config.rope_base == 5e5 and config.rope_scaling is None and config.n_kv_heads == 2 and config.d_head == 32


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"a": 1, "a": 2}', "the key 'a' is there twice"),
        (b"[1]", "must be an object, found list"),
        (b"\xff{}", "expected UTF-8, found byte 0xff at offset 0"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is no JSON"),
        (b"", "is no JSON"),
    ],
)
def test_a_file_that_is_no_json_says_where(tmp_path, data, says):
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(MiniLLMError, match="config.json") as error:
        folder_config(tmp_path)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_control_token_of_a_book_is_refused_before_its_beginnings_are_listed(tmp_path):
    with pytest.raises(TokenizerError, match="control tokens: expected at most 20,000,000 .* up to 100,000 characters"):
        load(tmp_path, {"added_tokens": [*ADDED[:-1], ADDED[-1] | {"content": "é" * 100_000, "special": True}]})
