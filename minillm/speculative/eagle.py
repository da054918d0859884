"""An EAGLE head at work: beside its target, on the target's backend, with a cache of its own.

    target   x_0 … x_n-1 ─▶ f_0 … f_n-1, and x_n is drawn
    head     (f_n-1, x_n) ─▶ f̂_n ─ LM head ─▶ draft of x_n+1
             (f̂_n, x_n+1) ─▶ f̂_n+1 ─ LM head ─▶ draft of x_n+2 …

One layer is one thirtieth of SmolLM2; its LM head is another fifth. A head that knows a short vocabulary reads those rows only.
How it is trained, and the papers: training/eagle.py. The file is GGUF with names of our own; nothing else reads it:

    general.architecture = "eagle", eagle.target = the target's name, eagle.vocabulary = token ids, where it is short
    fc.weight (d, 2d), and blk.0.* as in any model
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray as Array

from minillm.errors import ModelError
from minillm.formats.blocks import BLOCK_TYPES, quantize_q8_0
from minillm.formats.expect import Fields, shown
from minillm.formats.gguf import open_gguf
from minillm.formats.gguf_write import write_gguf
from minillm.model.adapters import FIELDS
from minillm.model.adapters import as_stored as stored_plain
from minillm.model.config import ModelConfig
from minillm.model.random_model import tensor_shapes
from minillm.model.tensor_store import tensors_of
from minillm.model.transformer import Segment, Transformer
from minillm.model.weights import LayerWeights, StoredTensor

ARCHITECTURE, FC = "eagle", "fc.weight"
LAYER_FIELDS = {f"{name}.weight": field for name, field in FIELDS.items()} | {
    "attn_norm.weight": "attn_norm", "ffn_norm.weight": "ffn_norm", "attn_q.bias": "q_bias", "attn_k.bias": "k_bias",
    "attn_v.bias": "v_bias", "attn_q_norm.weight": "q_norm", "attn_k_norm.weight": "k_norm",
}  # fmt: skip


def head_config(target: ModelConfig) -> ModelConfig:
    """Make the configuration of a head: one layer of the target's shape."""
    return replace(target, n_layers=1, name=f"EAGLE head of {target.name}")


def head_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:  # head_config's -> {name: shape}
    """List the arrays of a head: one layer, by GGUF's names, and the matrix before it."""
    d = config.d_model
    layer = {name: shape for name, shape in tensor_shapes(config).items() if name.startswith("blk.0.")}
    return {FC: (d, 2 * d), **layer}


class Eagle:
    """A head that drafts for `target`, a Transformer. stored: {name: StoredTensor}, as head_shapes.

    vocabulary: (n,) token ids that it may propose, rising; None: all. ModelError for a head of another shape.
    """

    def __init__(self, target: Transformer, stored: Mapping[str, StoredTensor], vocabulary: np.ndarray | None = None) -> None:
        self.target, self.config, ops = target, head_config(target.config), target.ops
        shapes, found = head_shapes(self.config), {name: tuple(tensor.shape) for name, tensor in stored.items()}
        if wrong := [name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name)]:
            name = min(wrong)
            raise ModelError(f"{self.config.name}: {name!r} must have shape {shapes.get(name)}, found {found.get(name)}.")
        layer = {LAYER_FIELDS[name.removeprefix("blk.0.")]: ops.load_matrix(stored[name]) for name in shapes if name != FC}
        self.fc, self.layers = ops.load_matrix(stored[FC]), ops.prepare_layers([LayerWeights(**layer)])
        self.vocabulary, self.head = vocabulary, target.weights.head
        if vocabulary is not None:
            last = target.config.vocab_size - 1
            if vocabulary.ndim != 1 or not len(vocabulary) or vocabulary[0] < 0 or vocabulary[-1] > last:
                raise ModelError(f"{self.config.name}: a vocabulary is token ids from 0 to {last:,}, found {vocabulary!r:.80}.")
            if (np.diff(vocabulary) <= 0).any():
                raise ModelError(f"{self.config.name}: the {len(vocabulary):,} ids of the vocabulary do not rise.")
            rows = ops.embed(vocabulary, target.weights.head)
            self.head = ops.load_matrix(packed(rows, stored[FC].type.name))

    def new_cache(self) -> Any:
        """Make an empty cache for one text: one layer, so a thirtieth of the target's for SmolLM2."""
        return self.target.new_cache(layers=1)

    def features(self, x: Array) -> Array:  # (n, d_model) of Transformer.hidden -> (n, d_model)
        """Compute the head's input: the target's vectors after its last norm."""
        return self.target.ops.rms_norm(x, self.target.weights.norm, self.config.norm_eps)

    def guess(  # (n, d_model), (n,) ids, a cache -> (n, d_model)
        self, features: Array, tokens: Sequence[int], cache: Any
    ) -> Array:
        """Predict the next features. features[i], true or predicted, is of the position before tokens[i]."""
        return self.guess_batch(features, [tokens], [cache])

    def guess_batch(  # (n, d_model), [ids], [cache] -> (n, d_model)
        self, features: Array, tokens: Sequence[Sequence[int]], caches: Sequence[Any]
    ) -> Array:
        """The same for several texts in one pass: each with its tokens, n in all, and its cache; features in that order."""
        ops, ends = self.target.ops, accumulate(map(len, tokens), initial=0)
        segments = [Segment(np.asarray(ids, np.int64), c.length, c) for ids, c in zip(tokens, caches, strict=True)]
        embedded = ops.embed(np.concatenate([s.tokens for s in segments]), self.target.weights.embedding)
        step = ops.AttentionStep(ops, segments, [slice(*pair) for pair in pairwise(ends)])
        positions = np.concatenate([np.arange(s.position, s.position + len(s.tokens)) for s in segments])
        angles = ops.rope_angles(positions, self.target.frequencies, self.target.rope_magnitude)
        x = ops.linear(np.concatenate([embedded, features], axis=1), self.fc)
        return ops.run_layers(x, self.layers, self.config, angles, step)

    def logits(self, guessed: Array) -> Array:  # (n, d_model) -> (n, vocab)
        """Apply the target's LM head to a predicted feature; -inf for tokens that are not in the short vocabulary."""
        found = self.target.ops.linear(guessed, self.head)
        if self.vocabulary is None:
            return found
        logits = np.full((len(found), self.config.vocab_size), -np.inf, np.float32)
        logits[:, self.vocabulary] = found
        return logits


def packed(  # (rows, columns) or (columns,), "Q8_0" or "F32" -> StoredTensor; a vector is always F32
    array: np.ndarray, kind: str
) -> StoredTensor:
    if kind == "Q8_0" and array.ndim == 2:
        return StoredTensor(quantize_q8_0(array), BLOCK_TYPES[kind], array.shape)
    return stored_plain(array)


def save_eagle(
    path: str | Path, target: ModelConfig, parameters: Mapping[str, np.ndarray], vocabulary: np.ndarray | None = None,
    kind: str = "Q8_0", extra: Mapping[str, Any] | None = None
) -> None:
    """Write a head. target: ModelConfig; parameters: {name: array}; kind: of its matrices; extra: more metadata."""
    metadata: dict[str, Any] = {"general.architecture": ARCHITECTURE, "general.name": head_config(target).name}
    metadata["eagle.target"] = target.name
    if vocabulary is not None:
        metadata["eagle.vocabulary"] = np.asarray(vocabulary, np.int32)
    write_gguf(path, {**(extra or {}), **metadata}, {name: tuple(packed(array, kind)) for name, array in parameters.items()})


def load_eagle(path: str | Path, target: Transformer) -> Eagle:
    """Read a head for this target. ModelError or GGUFError where it is damaged, or was trained for another."""
    gguf = open_gguf(path)
    keys = Fields(gguf.metadata, f"{path}: metadata ", ModelError)
    for key, right in {"general.architecture": ARCHITECTURE, "eagle.target": target.config.name}.items():
        if (found := keys.text(key)) != right:
            raise ModelError(f"{path}: metadata {key!r} must be {right!r}, found {shown(found)}.")
    stored = tensors_of(gguf)
    vocabulary = keys.numbers("eagle.vocabulary", None, whole=True)
    return Eagle(target, stored, None if vocabulary is None else np.asarray(vocabulary, np.int64))
