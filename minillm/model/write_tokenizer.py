"""A GGUF file's tokenizer in the files of a hub's folder: the inverse of hf_tokenizer.py.

    tokenizer.json            the stages, the vocabulary, the merges: all that turns text into ids
    tokenizer_config.json     which tokens begin and end a text; the chat template
    generation_config.json    what ends a generation; the sampling that the authors recommend

Every token stands in the vocabulary, special ones too: `tokenizers` gives an added token that does not an id of its own choice.
"""

from collections.abc import Mapping
from typing import Any

from minillm.errors import TokenizerError
from minillm.formats.expect import Fields, shown
from minillm.model.defaults import GGUF_KEYS
from minillm.model.hf_pipeline import STRUCTURES
from minillm.model.hf_sentencepiece import merges_from_scores, stages
from minillm.model.rope_files import shortest
from minillm.model.tokenizer.metadata import PREFIX, arguments_from_gguf
from minillm.model.tokenizer.vocabulary import CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def tokenizer_files(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]]:  # GGUF's metadata -> {file: values}
    """Say the tokenizer as transformers reads it. TokenizerError, by name, for what tokenizer.json cannot say."""
    known = arguments_from_gguf(dict(metadata))
    tokens, types = known["tokens"], known["token_types"] or [NORMAL] * len(known["tokens"])
    kept = {i: text for i, text in enumerate(tokens) if types[i] != UNUSED}
    if len(set(kept.values())) < len(kept):
        first = {text: i for i, text in reversed(kept.items())}
        twice = next(i for i, text in kept.items() if first[text] != i)
        both = f"tokens {first[kept[twice]]:,} and {twice:,}"
        raise TokenizerError(f"{both} have one text, {shown(kept[twice])}, and tokenizer.json finds a token by its text.")
    apart = [i for i in kept if types[i] in (CONTROL, UNKNOWN, USER_DEFINED)]
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    bos_id = known["bos_id"]
    model = byte_level(known) if "merges" in known else sentencepiece(known, types)
    values = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": tokens[i], **plain, "special": types[i] != USER_DEFINED} for i in apart],
        **{stage: model[stage] for stage in ("normalizer", "pre_tokenizer")},
        "post_processor": begin(tokens[bos_id], bos_id) if known["add_bos"] and bos_id is not None else None,
        "decoder": model["decoder"],
        "model": {"type": "BPE", **model["model"], "vocab": {text: i for i, text in kept.items()}, "merges": model["merges"]},
    }
    return {
        "tokenizer.json": values,
        "tokenizer_config.json": tokenizer_config(metadata, known),
        "generation_config.json": generation_config(metadata, known),
    }


def byte_level(known: dict[str, Any]) -> dict[str, Any]:
    """Say byte-level BPE."""
    structure = next((steps for steps, name in STRUCTURES.items() if name == known["pre"]), None)
    if structure is None:
        raise TokenizerError(f"the pre-tokenizer {known['pre']!r} has no form for tokenizer.json here.")
    whole_words = known["pre"] == "llama-bpe" if known["ignore_merges"] is None else known["ignore_merges"]
    return {
        "normalizer": {"type": known["normalizer"]} if known["normalizer"] else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [step(*each) for each in structure]},
        "decoder": BYTE_LEVEL,
        "model": {"ignore_merges": whole_words},
        "merges": [pair.split(" ") for pair in known["merges"]],
    }


def sentencepiece(known: dict[str, Any], types: list[int]) -> dict[str, Any]:
    """Say SentencePiece's BPE."""
    if USER_DEFINED in types:
        text = known["tokens"][types.index(USER_DEFINED)]
        why = "tokenizer.json puts other spaces around it"
        raise TokenizerError(f"{shown(text)} is a user-defined token of SentencePiece's, which has no form here: {why}.")
    unknown = known["unknown_id"] if known["unknown_id"] is not None else types.index(UNKNOWN) if UNKNOWN in types else None
    model = {"byte_fallback": True, "fuse_unk": True, "unk_token": None if unknown is None else known["tokens"][unknown]}
    merges = merges_from_scores(known["tokens"], known["scores"], types)
    return {**stages(known["space_prefix"], known["metaspace"]), "model": model, "merges": merges}


def step(kind: str, what: Any) -> dict[str, Any]:  # ("Split", pattern), ("Digits", alone), ("ByteLevel", whether it cuts)
    if kind == "ByteLevel":
        return BYTE_LEVEL | {"use_regex": what}
    if kind == "Digits":
        return {"type": "Digits", "individual_digits": what}
    return {"type": "Split", "pattern": {"Regex": what}, "behavior": "Isolated", "invert": False}


def begin(text: str, number: int) -> dict[str, Any]:
    """Make the post-processor that puts a token in front."""
    first = {"SpecialToken": {"id": text, "type_id": 0}}
    special = {text: {"id": text, "ids": [number], "tokens": [text]}}
    single, pair = [first, {"Sequence": {"id": "A", "type_id": 0}}], [{"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": single, "pair": single + pair, "special_tokens": special}


def tokenizer_config(metadata: Mapping[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Name the tokens that have a task."""
    last = len(known["tokens"]) - 1
    padding = Fields(dict(metadata), "", TokenizerError).whole(f"{PREFIX}padding_token_id", None, high=last)
    ids = {"bos": known["bos_id"], "eos": known["eos_id"], "unk": known["unknown_id"], "pad": padding}
    values = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{name}_token": known["tokens"][i] for name, i in ids.items() if i is not None},
        "add_bos_token": known["add_bos"],
        "clean_up_tokenization_spaces": False,
        "chat_template": known["chat_template"],
    }
    return {key: value for key, value in values.items() if value is not None}


def generation_config(metadata: Mapping[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Say what ends a generation, and how the model's authors sample."""
    ends = [i for i in (known["eos_id"], *known["extra_eos_ids"]) if i is not None]
    fields = Fields(dict(metadata), "metadata ", TokenizerError)
    said = {name: fields.number(f"general.sampling.{key}", None) for name, key in GGUF_KEYS.items()}
    sampling = {name: int(value) if name == "top_k" else shortest(value) for name, value in said.items() if value is not None}
    ids = {"bos_token_id": known["bos_id"], "eos_token_id": list(dict.fromkeys(ends))}
    kept = {key: value for key, value in ids.items() if value not in (None, [])}
    return kept | ({"do_sample": True} if sampling else {}) | sampling
