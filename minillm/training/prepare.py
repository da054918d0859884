"""Before the first step: a corpus becomes a tokenizer and two files of token ids, one to learn from, one to judge by.

    text ─▶ documents ─▶ two sides ─▶ BPE of the side to learn from ─▶ ids of both, each document ended by <|endoftext|>

What ends one document stands before the next, so a model learns how documents begin from what follows it: the same token is
put before every prompt (add_bos). A model of plain text knows no roles; its chat is a text that two write in turn.

The held-out side is kept out of the tokenizer too. Everything made here is kept in the run's folder, so that a run that goes
on reads the same; the checkpoint carries the sha256 of both, so that it notices where it does not.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from minillm.errors import TrainingError
from minillm.formats.gguf import open_gguf
from minillm.formats.gguf_write import write_gguf
from minillm.model import zoo
from minillm.model.random_model import byte_metadata
from minillm.model.tokenizer import Tokenizer
from minillm.training import checkpoint
from minillm.training.bpe_train import train_bpe
from minillm.training.config import TrainConfig
from minillm.training.data import TokenFile, open_tokens, read_corpus, split, write_tokens

END_OF_TEXT = "<|endoftext|>"
IN_TURN = "{{ bos_token }}{% for m in messages %}{{ m['content'] | trim }}{{ '' if loop.last else ' ' }}{% endfor %}"
NAMES = ("train.tokens", "held_out.tokens")


def prepare(config: TrainConfig, out: Path, resume: bool) -> tuple[dict[str, Any], TokenFile, TokenFile]:
    """Prepare the tokenizer's metadata, the ids to train on, and those to evaluate on. resume: files in `out` stay."""

    @functools.cache
    def sides() -> tuple[list[str], list[str]]:  # read where it is needed: a run that goes on may do without its corpus
        return split(read_corpus(config.data.corpus), config.data.separator, config.data.held_out)

    tokenizer = tokenizer_metadata(config, lambda: sides()[0], out / "tokenizer.gguf", resume)
    found = len(tokenizer.get("tokenizer.ggml.tokens", ()))
    if found != config.model.vocab_size:
        raise TrainingError(
            f"{config.data.tokenizer}: the tokenizer has {found:,} tokens, model.vocab_size says {config.model.vocab_size:,}."
        )
    paths = [out / name for name in NAMES]
    if resume and all(path.exists() for path in paths):
        return tokenizer, open_tokens(paths[0]), open_tokens(paths[1])
    train, held_out = (write_tokens(p, ids(tokenizer, s), found) for p, s in zip(paths, sides(), strict=True))
    return tokenizer, train, held_out


def tokenizer_metadata(config: TrainConfig, documents: Callable[[], list[str]], kept: Path, resume: bool) -> dict[str, Any]:
    """Make the tokenizer of [data] as GGUF metadata: "bytes", "bpe" (trained on documents() and kept), or a GGUF file's."""
    named = config.data.tokenizer
    if named == "bytes":
        return byte_metadata(config.model.vocab_size)
    if named == "bpe" and not (resume and kept.exists()):
        made = train_bpe(documents(), config.model.vocab_size, special=(END_OF_TEXT,), add_bos=True)
        made["tokenizer.chat_template"] = IN_TURN
        write_gguf(kept, {"general.architecture": "llama", "general.type": "vocab"} | made, {})
        return made
    with open_gguf(kept if named == "bpe" else zoo.resolve(named)) as file:
        return {key: value for key, value in file.metadata.items() if key.startswith("tokenizer.")}


def ids(metadata: dict[str, Any], documents: Iterable[str]) -> Iterator[list[int]]:  # -> an iterator of [id]
    """Encode each document, with the end of text behind it."""
    tokenizer = Tokenizer.from_gguf(metadata)
    end = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    return ([*tokenizer.encode(document, bos=False), *end] for document in documents)


def beginnings(metadata: dict[str, Any], ids: np.ndarray) -> np.ndarray:  # {key: value}, (count,) -> (documents,), ascending
    """Find where documents begin: at the token that ends the one before, which stands before every prompt too."""
    end = Tokenizer.from_gguf(metadata).eos_id
    if end is None:
        raise TrainingError("data.aligned needs a tokenizer with an end of text, found none: documents have no visible end.")
    return np.concatenate([[0], np.flatnonzero(ids[:-1] == end)])


def sha256(metadata: dict[str, Any]) -> str:
    """Hash a tokenizer, whether it was just trained or read from a file."""
    plain = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in metadata.items()}
    return checkpoint.sha256(plain)
