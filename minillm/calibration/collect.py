"""What flows into each matrix: the model runs on text, and a visitor sees the inputs of every product.

A quantizer that rounds blindly treats all columns of a matrix alike, but a column whose inputs are near zero may be rounded as it
likes. So the model reads some text, and every method keeps what it needs of the inputs x: an importance matrix the sum of x²
(importance.py), GPTQ the sum of xᵀx, AWQ the mean of |x|. All walk the same way:

    collect(transformer, chunks, visit)          visit("blk.3.ffn_down.weight", x), x (tokens, d_in): for each matrix, each chunk

Queries, keys and values have one input, and so have gate and up: a visitor is given the same array, once for each of them.
It runs on the NumPy reference, whose layers call one `linear`; a fast backend fuses what is to be seen here.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy import ndarray as Array

from minillm.errors import ModelError
from minillm.model.adapters import FIELDS
from minillm.model.tokenizer import Tokenizer
from minillm.model.transformer import Segment, Transformer

Visitor = Callable[[str, Array], object]  # GGUF's name of a matrix, its input (tokens, d_in)


def collect(
    transformer: Transformer, chunks: Iterable[Sequence[int] | np.ndarray], visit: Visitor, head: bool = False
) -> int:  # -> chunks that were run
    """Run the model on each chunk of token ids, from an empty cache; show the visitor the input of every product.

    head: the output matrix too, for every token. It is the largest product, and often the same tensor as the embedding.
    ModelError for a model on another backend than numpy.
    """
    model, count = watched(transformer, visit), 0
    for ids in chunks:
        cache = model.new_cache(len(ids))
        model.forward([Segment(np.asarray(ids), 0, cache, "all" if head else "none")])
        count += 1
    return count


def watched(transformer: Transformer, visit: Visitor) -> Transformer:
    """Make a model of the same weights that shows the inputs of its products."""
    ops, names = transformer.ops, matrix_names(transformer)

    def linear(x: Array, weight: Any, bias: Array | None = None) -> Array:
        visit(names[id(weight)], x)
        return ops.linear(x, weight, bias)

    return with_linear(transformer, linear)


def with_linear(transformer: Transformer, linear: Callable[..., Array]) -> Transformer:
    """Make a model of the same weights whose products are computed by another function: linear(x, weight, bias=None).

    ModelError for a model on another backend than numpy.
    """
    ops = transformer.ops
    if ops.name != "numpy":
        raise ModelError(f"products are watched or replaced on the numpy backend, found a model on {ops.name}.")

    def attention_inputs(x: Array, w: Any, c: Any, cos: Array, sin: Array) -> tuple[Array, Array, Array]:
        return ops.attention_inputs(x, w, c, cos, sin, linear=linear)

    def add_linear(x: Array, h: Array, weight: Any) -> Array:
        return x + linear(h, weight)

    def add_feed_forward(x: Array, w: Any, c: Any) -> Array:
        return ops.add_feed_forward(x, w, c, linear=linear)

    model = copy.copy(transformer)
    own: dict[str, Any] = {"attention_inputs": attention_inputs, "add_linear": add_linear, "add_feed_forward": add_feed_forward}
    model.ops = replace(ops, linear=linear, **own)
    return model


def matrix_names(transformer: Transformer) -> dict[int, str]:  # {id of a matrix: its name in a GGUF file}
    """Name the matrices of a model; a head that is the embedding has the embedding's name."""
    weights = transformer.weights
    head = "token_embd.weight" if weights.head is weights.embedding else "output.weight"
    names = {id(weights.head): head}
    for i, layer in enumerate(weights.layers):
        names |= {id(getattr(layer, name)): f"blk.{i}.{stem}.weight" for stem, name in FIELDS.items()}
    return names


def chunks_of(tokenizer: Tokenizer, text: str, context: int, most: int) -> np.ndarray:  # -> (chunks, context) int64
    """Cut a text into at most `most` chunks of `context` tokens; each begins with the begin-of-text token, if the model's do.

    Control tokens in the text (<|endoftext|> between documents) are those tokens. ModelError for a text too short for one.
    """
    bos = [tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else []
    width, size = context - len(bos), 8 * context * most
    while len(ids := tokenizer.encode(text[:size], special=True, bos=False)) < most * width and size < len(text):
        size *= 2  # of a long text, only as much is tokenized as is needed
    count = min(most, len(ids) // width)
    if count < 1:
        raise ModelError(f"the text has {len(ids):,} tokens, a chunk takes {width:,}: give more text, or a smaller --context.")
    rows = np.array(ids[: count * width], np.int64).reshape(count, width)
    return np.concatenate([np.full((count, len(bos)), bos or 0, np.int64), rows], axis=1)
