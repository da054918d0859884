"""The tokenizer's part of a GGUF file, checked.

Files come from strangers. Every key is looked at once, here: right kind, right length, ids inside the vocabulary. What
passes is what Tokenizer's constructor takes. Keys: github.com/ggml-org/ggml/blob/master/docs/gguf.md, "Tokenizer".
"""

import math

from minillm.errors import TokenizerError
from minillm.model.tokenizer.pretokenize import canonical

PREFIX = "tokenizer.ggml."


def arguments_from_gguf(metadata: dict) -> dict:
    """Keyword arguments for Tokenizer from GGUF metadata; TokenizerError in one line for what is missing or wrong."""
    model = metadata.get(PREFIX + "model")
    if model not in ("gpt2", "llama"):
        found = "nothing" if model is None else repr(model)[:60]
        raise TokenizerError(f"tokenizer.ggml.model: expected gpt2 (byte-level BPE) or llama (SentencePiece), found {found}")
    tokens = _strings(metadata, "tokens")
    kwargs = {"tokens": tokens, "token_types": _numbers(metadata, "token_type", len(tokens), int, required=False)}

    ids = {name: _token_id(metadata, f"{name}_token_id", len(tokens)) for name in ("bos", "eos", "unknown", "eot", "eom")}
    kwargs |= {"bos_id": ids["bos"], "eos_id": ids["eos"], "unknown_id": ids["unknown"]}
    kwargs["extra_eos_ids"] = [i for i in (ids["eot"], ids["eom"]) if i is not None]

    if model == "gpt2":
        kwargs["merges"] = _strings(metadata, "merges")
        kwargs["pre"] = canonical(_value(metadata, "pre", str, "default"))
    else:
        kwargs["scores"] = _numbers(metadata, "scores", len(tokens), float, required=True)
        kwargs["space_prefix"] = _value(metadata, "add_space_prefix", bool, True)
    # Silence means yes for these two, as llama.cpp has it.
    default_bos = ids["bos"] is not None and (model == "llama" or kwargs["pre"] == "llama-bpe")
    kwargs["add_bos"] = _value(metadata, "add_bos_token", bool, default_bos)
    kwargs["chat_template"] = _value(metadata, "chat_template", str, None, prefix="tokenizer.")
    return kwargs


def _value(metadata: dict, key: str, kind: type, default, prefix: str = PREFIX):
    value = metadata.get(prefix + key, default)
    if value is not default and not isinstance(value, kind):
        if kind is bool and value in (0, 1):  # numpy's bool, and writers that store a byte
            return bool(value)
        raise TokenizerError(f"{prefix}{key}: expected {kind.__name__}, found {type(value).__name__}")
    return value


def _strings(metadata: dict, key: str) -> list[str]:
    value = metadata.get(PREFIX + key)
    if value is None:
        raise TokenizerError(f"{PREFIX}{key} is missing")
    if not isinstance(value, (list, tuple)):
        raise TokenizerError(f"{PREFIX}{key}: expected a list of strings, found {type(value).__name__}")
    if kinds := set(map(type, value)) - {str}:
        raise TokenizerError(f"{PREFIX}{key}: expected strings, found {min(k.__name__ for k in kinds)}")
    return list(value)


def _numbers(metadata: dict, key: str, count: int, kind: type, required: bool) -> list | None:
    value = metadata.get(PREFIX + key)
    if value is None and not required:
        return None
    value = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(value, (list, tuple)):
        raise TokenizerError(f"{PREFIX}{key}: expected an array of {count:,} numbers, found {type(value).__name__}")
    if len(value) != count:
        raise TokenizerError(f"{PREFIX}{key} has {len(value):,} entries, tokenizer.ggml.tokens has {count:,}")
    allowed = {int} if kind is int else {int, float}
    if kinds := set(map(type, value)) - allowed:
        raise TokenizerError(f"{PREFIX}{key}: expected {kind.__name__}, found {min(k.__name__ for k in kinds)}")
    if not all(map(math.isfinite, value)):
        raise TokenizerError(f"{PREFIX}{key}: expected finite numbers, found inf or nan")
    return list(value)


def _token_id(metadata: dict, key: str, count: int) -> int | None:
    value = metadata.get(PREFIX + key)
    if value is None:
        return None
    value = value.item() if hasattr(value, "item") else value
    if type(value) is not int or not 0 <= value < count:
        raise TokenizerError(f"{PREFIX}{key}: expected an id from 0 to {count - 1:,}, found {str(value)[:60]}")
    return value
