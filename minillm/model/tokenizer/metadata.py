"""The tokenizer's part of a GGUF file, checked.

Files are untrusted. Every key is checked once, here: right kind, right length, ids inside the vocabulary. What
passes is what Tokenizer's constructor takes. Keys: github.com/ggml-org/ggml/blob/master/docs/gguf.md, "Tokenizer". Four are our
own, for what a folder from a hub says and GGUF has no key for:

    tokenizer.minillm.normalizer        "NFC": text is composed before it is cut
    tokenizer.minillm.ignore_merges     a word that is a token is taken whole; otherwise the pre-tokenizer decides
    tokenizer.minillm.eos_token_ids     further ids that end a generation
    tokenizer.minillm.metaspace         SentencePiece's space prefix as Metaspace of `tokenizers` has it: "always", or "first"
"""

from minillm.errors import TokenizerError
from minillm.formats.expect import Fields, shown
from minillm.model.tokenizer.pretokenize import canonical

PREFIX, OWN = "tokenizer.ggml.", "tokenizer.minillm."
NORMALIZERS = ("NFC",)
METASPACE = ("always", "first")
MOST_EOS = 64


def arguments_from_gguf(metadata: dict) -> dict:
    """Read keyword arguments for Tokenizer from GGUF metadata; TokenizerError in one line for what is missing or wrong."""
    keys = Fields(metadata, "", TokenizerError)
    model = keys.values.get(PREFIX + "model")
    if not isinstance(model, str) or model not in ("gpt2", "llama"):
        found = "nothing" if model is None else shown(model)
        raise TokenizerError(f"tokenizer.ggml.model: expected gpt2 (byte-level BPE) or llama (SentencePiece), found {found}")
    tokens = keys.texts(PREFIX + "tokens")
    last = len(tokens) - 1
    kwargs = {"tokens": tokens, "token_types": keys.numbers(PREFIX + "token_type", None, count=len(tokens), whole=True)}

    ids = {n: keys.whole(f"{PREFIX}{n}_token_id", None, high=last) for n in ("bos", "eos", "unknown", "eot", "eom")}
    kwargs |= {"bos_id": ids["bos"], "eos_id": ids["eos"], "unknown_id": ids["unknown"]}
    kwargs["extra_eos_ids"] = [i for i in (ids["eot"], ids["eom"]) if i is not None] + eos_ids(keys, last)

    if model == "gpt2":
        kwargs["merges"] = keys.texts(PREFIX + "merges")
        kwargs["pre"] = canonical(keys.text(PREFIX + "pre", "default"))
        kwargs["normalizer"] = keys.one_of(OWN + "normalizer", NORMALIZERS, None)
        kwargs["ignore_merges"] = keys.flag(OWN + "ignore_merges", None)
    else:
        kwargs["scores"] = keys.numbers(PREFIX + "scores", count=len(tokens))
        kwargs["space_prefix"] = keys.flag(PREFIX + "add_space_prefix", True)
        kwargs["metaspace"] = keys.one_of(OWN + "metaspace", METASPACE, None)
    # Silence means yes for these two, as llama.cpp has it.
    default_bos = ids["bos"] is not None and (model == "llama" or kwargs["pre"] == "llama-bpe")
    kwargs["add_bos"] = keys.flag(PREFIX + "add_bos_token", default_bos)
    kwargs["chat_template"] = keys.text("tokenizer.chat_template", None)
    return kwargs


def eos_ids(keys: Fields, last: int) -> list[int]:
    ids = keys.numbers(OWN + "eos_token_ids", [], whole=True)
    if len(ids) > MOST_EOS or any(not 0 <= i <= last for i in ids):
        raise TokenizerError(f"{OWN}eos_token_ids: expected at most {MOST_EOS} ids from 0 to {last:,}, found {shown(ids)}")
    return ids
