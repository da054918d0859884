"""A folder's tokenizer, translated into the metadata that a GGUF file would have.

tokenizer.json says how a text becomes ids: byte-level BPE (its stages: hf_pipeline.py) or SentencePiece's (hf_sentencepiece.py).
Where there is none, tokenizer.model, SentencePiece's own file, does. tokenizer_config.json names the tokens that begin and end
a text and brings the chat template, generation_config.json has further ends. A token's id is its place in GGUF's list: so ids are
bounded before the list is made, and two tokens with one id are refused.

An explicit add_bos_token wins over the post-processor, as in llama.cpp's converter and for Llama in transformers 4; transformers
5 asks the post-processor alone. Where tokenizer_config.json is silent, as Llama 3's is, all agree.
"""

from pathlib import Path
from typing import Any

from minillm.errors import TokenizerError
from minillm.formats.expect import Fields, is_unicode, is_whole, shown
from minillm.formats.json_file import read_object
from minillm.model.hf_options import chat_template, check_added, more_eos_ids, read_fields, special_token
from minillm.model.hf_pipeline import begin_token, normalizer_name, pre_tokenizer_name, steps
from minillm.model.hf_sentencepiece import scores_from_merges, space_prefix, token_types
from minillm.model.sentencepiece_model import read_sentencepiece
from minillm.model.tokenizer.bpe import BYTE_TO_CHAR
from minillm.model.tokenizer.metadata import OWN, PREFIX
from minillm.model.tokenizer.vocabulary import CONTROL, NORMAL, UNUSED, USER_DEFINED

MOST_IDS = 1_000_000  # of a vocabulary; the largest in use have some 260,000
NEUTRAL = {"dropout": 0.0, "continuing_subword_prefix": "", "end_of_word_suffix": ""}
SENTENCEPIECE = "tokenizer.model"


def tokenizer_metadata(folder: Path, most: int = MOST_IDS) -> dict[str, Any]:
    """Convert to GGUF's metadata. most: how many ids the model has. TokenizerError for what would give other tokens."""
    options, most = read_fields(folder / "tokenizer_config.json"), min(most, MOST_IDS)
    options.one_of("add_eos_token", (False,), None)
    if (folder / SENTENCEPIECE).is_file() and not (folder / "tokenizer.json").is_file():
        metadata, begins = from_sentencepiece(folder, options, most), None
        ids = {text: i for i, text in enumerate(metadata[PREFIX + "tokens"])}
        adds_bos = options.flag("add_bos_token", True)
    else:
        tokenizer = read_fields(folder / "tokenizer.json")
        metadata, ids = from_tokenizer(folder, tokenizer, options, most)
        begins = begin_token(tokenizer, ids)
        adds_bos = options.flag("add_bos_token", begins is not None)
    check_added(options, ids)
    bos, eos = (special_token(options, key, ids) for key in ("bos_token", "eos_token"))
    if bos is not None and begins is not None and bos != begins:
        where, found = "which the post_processor puts in front", metadata[PREFIX + "tokens"]
        options.fail("bos_token", f"{shown(found[begins])}, {where}", shown(found[bos]))
    metadata |= {
        PREFIX + "bos_token_id": begins if bos is None else bos,
        PREFIX + "eos_token_id": eos,
        PREFIX + "add_bos_token": adds_bos,
        OWN + "eos_token_ids": more_eos_ids(folder, len(metadata[PREFIX + "tokens"]), eos),
        "tokenizer.chat_template": chat_template(folder, options),
    }
    for name, key in (("unknown", "unk_token"), ("padding", "pad_token")):  # these do not change what is computed
        metadata.setdefault(f"{PREFIX}{name}_token_id", special_token(options, key, ids, needed=False))
    return {key: value for key, value in metadata.items() if value is not None}


def from_tokenizer(  # -> metadata, {text: id}
    folder: Path, tokenizer: Fields, options: Fields, most: int
) -> tuple[dict[str, Any], dict[str, int]]:
    """Convert tokenizer.json."""
    model = tokenizer.inner("model")
    if (kind := model.text("type", "none")) != "BPE":
        known = "byte-level BPE and SentencePiece's"
        found = f"{shown(kind)}. Convert the model to GGUF."
        raise TokenizerError(f"{folder}: only {known} are read from tokenizer.json, found {found}")
    for key, neutral in NEUTRAL.items():
        model.one_of(key, (neutral,), None)
    if model.flag("byte_fallback", False):
        prefix, scheme = space_prefix(tokenizer)
        model.one_of("ignore_merges", (False,), None)
        ids, types = vocabulary(tokenizer, model, most, None)
        types = token_types(tokenizer, model, ids, types)
        unknown = model.text("unk_token", None)
        return {
            PREFIX + "model": "llama",
            PREFIX + "tokens": in_order(ids, types),
            PREFIX + "scores": scores_from_merges(model, merges(model), ids, types),
            PREFIX + "token_type": types,
            PREFIX + "add_space_prefix": prefix,
            PREFIX + "unknown_token_id": None if unknown is None else ids[unknown],
            OWN + "metaspace": scheme,
        }, ids
    pre, normalizer = pre_tokenizer_name(tokenizer), normalizer_name(tokenizer)
    decoder = tokenizer.inner("decoder", None)
    for step in steps(decoder, "decoders") if decoder else []:
        step.one_of("type", ("ByteLevel",))
    if pre == "gpt-2":  # of a ByteLevel that stands alone, the library lets the option decide
        options.one_of("add_prefix_space", (False,), None)
    ids, types = vocabulary(tokenizer, model, most, normalizer)
    if (unknown := model.text("unk_token", None)) and not all(char in ids for char in BYTE_TO_CHAR.values()):
        model.fail("unk_token", "null, where not every byte has a token", shown(unknown))
    whole_words = model.flag("ignore_merges", False)
    return {
        PREFIX + "model": "gpt2",
        PREFIX + "pre": pre,
        PREFIX + "tokens": in_order(ids, types),
        PREFIX + "token_type": types,
        PREFIX + "merges": merges(model),
        OWN + "ignore_merges": whole_words if whole_words != (pre == "llama-bpe") else None,  # which says so by itself
        OWN + "normalizer": normalizer,
    }, ids


def from_sentencepiece(folder: Path, options: Fields, most: int) -> dict[str, Any]:
    """Convert tokenizer.model, and the tokens that tokenizer_config.json adds to it."""
    found = read_sentencepiece(folder / SENTENCEPIECE, most)
    tokens, scores, types = found.tokens, found.scores, found.types
    added = options.inner("added_tokens_decoder", {})
    for key in sorted(added.values, key=lambda key: (len(key), key)):
        token = added.inner(key)
        text, place = token.text("content"), str(len(tokens))
        if key == place and len(tokens) < most:
            if not token.flag("special", False):
                added.fail(key, "a special token, beside SentencePiece's", shown(text))
            tokens.append(text)
            scores.append(0.0)
            types.append(CONTROL)
    if strange := (read_object(folder / "added_tokens.json", TokenizerError) or {}).keys() - set(tokens):
        where = "a token of tokenizer.model or of tokenizer_config.json"
        raise TokenizerError(f"{folder / 'added_tokens.json'}: expected {where}, found {shown(min(strange))}.")
    tokens = [text.replace("\u2581", " ") if kind == USER_DEFINED else text for text, kind in zip(tokens, types, strict=True)]
    return {
        PREFIX + "model": "llama",
        PREFIX + "tokens": tokens,
        PREFIX + "scores": scores,
        PREFIX + "token_type": types,
        PREFIX + "add_space_prefix": found.prefix,
        PREFIX + "unknown_token_id": found.ids["unknown"],
        OWN + "metaspace": None if not found.prefix or options.flag("legacy", True) else "first",
    }


def in_order(ids: dict[str, int], types: list[int]) -> list[str]:  # -> [text]; ids without a token get a name
    """List the tokens by id."""
    tokens = [f"[unused {i}]" for i in range(len(types))]
    for text, i in ids.items():
        tokens[i] = text
    return tokens


def padded(metadata: dict[str, Any], size: int) -> dict[str, Any]:  # -> with `size` tokens
    """Add unused tokens up to the model's vocabulary, which has more rows than tokens where it was padded, as Qwen2's."""
    tokens, types = metadata[PREFIX + "tokens"], metadata[PREFIX + "token_type"]
    more = range(len(tokens), size)
    longer = {PREFIX + "tokens": [*tokens, *(f"[unused {i}]" for i in more)]}
    longer[PREFIX + "token_type"] = [*types, *(UNUSED for _ in more)]
    if scores := metadata.get(PREFIX + "scores"):
        longer[PREFIX + "scores"] = [*scores, *(0.0 for _ in more)]
    return metadata | longer


def vocabulary(  # -> {text: id}, [GGUF's type of each id]
    tokenizer: Fields, model: Fields, most: int, normalizer: str | None
) -> tuple[dict[str, int], list[int]]:
    """Collect the tokens of the model, and the added ones. Ids without a token, of which a few are usual, are unused."""
    ids = dict(model.inner("vocab").values)
    for text, i in ids.items():
        if not (is_whole(i) and 0 <= i < most and is_unicode(text)):
            model.fail(f"vocab[{shown(text)}]", f"a text with an id from 0 to {most - 1:,}", shown(i))
    texts, kinds = {i: text for text, i in ids.items()}, {}
    if len(texts) < len(ids):
        model.fail("vocab", "an id for each token", f"{len(ids):,} tokens with {len(texts):,} ids")
    for token in tokenizer.inners("added_tokens", []):
        text, i, special = token.text("content"), token.whole("id", high=most - 1), token.flag("special", False)
        for key in ("lstrip", "rstrip", "single_word"):
            token.one_of(key, (False,), None)
        if normalizer and token.flag("normalized", False) and not special:
            token.fail("normalized", f"false, beside the normalizer {normalizer}", "true")
        if not text or texts.get(i, text) != text or ids.get(text, i) != i:
            token.fail("content", "a text of its own under an id of its own", f"{shown(text)} under {i:,}, which are taken")
        ids[text], texts[i], kinds[i] = i, text, CONTROL if special else USER_DEFINED
    if not ids:
        model.fail("vocab", "at least one token", "none")
    return ids, [kinds.get(i, NORMAL if i in texts else UNUSED) for i in range(max(texts) + 1)]


def merges(model: Fields) -> list[str]:  # Fields -> ["left right"]
    """List the merges in the order of training; files have them as one string or as two."""
    pairs = model.items("merges")
    for i, pair in enumerate(pairs):
        parts = pair.split(" ") if isinstance(pair, str) else pair
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) and part for part in parts):
            model.fail(f"merges[{i}]", "two tokens", shown(pair))
    return [pair if isinstance(pair, str) else " ".join(pair) for pair in pairs]
