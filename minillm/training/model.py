"""The whole model's loss, and the gradient of every weight.

Forward runs the layers and keeps what they saw; the loss compares the logits of every position with the token that came
next; backward walks the layers in the other direction. Weights and gradients are dictionaries with GGUF's tensor names, so
what is trained here is what a file holds and what the engine loads; an optimizer sees names and arrays, and no model.

    tokens ─ embed ─ layer 0 ─ … ─ layer L-1 ─ norm ─ head ─ logits ─ cross-entropy ─ loss
    dE    ←──────── dW 0    ← … ← dW L-1   ← dnorm ← dW  ← p - onehot  ←───────────── 1

A tied head is the embedding table, used twice: its gradient is the sum of both uses. All sequences of a batch go through a
product as one matrix of batch × length rows; only attention sees where one ends. Touvron et al. 2023, arXiv:2302.13971.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy import ndarray as Array

from minillm.errors import MiniLLMError
from minillm.layers import embed, rms_norm, rope_angles
from minillm.memory import keep_freed_memory
from minillm.model.config import ModelConfig
from minillm.model.random_model import random_tensor, tensor_shapes
from minillm.model.rope_scaling import rope_magnitude, scaled_frequencies
from minillm.training.cross_entropy import IGNORE, cross_entropy
from minillm.training.gradients import embedding_backward, rms_norm_backward
from minillm.training.layer import EVERY_WEIGHT, Activations, Products, dense, layer_backward, layer_forward

keep_freed_memory()  # every step takes and frees the same activations

TABLE = "token_embd.weight"
FIRST_LOGITS = 0.1  # their size before training, about


def parameters(config: ModelConfig, seed: int = 0) -> dict[str, Array]:  # ModelConfig, int -> {GGUF name: float32 array}
    """Initialize a model's weights, a function of the seed alone.

    Matrices are uniform with deviation 1/√inputs, so that what comes out is as large as what went in; those whose result is
    added to the stream are smaller by √(2 layers), so that the stream of a deep model starts no longer than that of a shallow
    one (Radford et al. 2019, GPT-2). Norms are 1, biases 0. The head starts small, as does the last norm where the table is
    the head too: all tokens are alike, and the first loss is close to log(vocabulary).

    Rows of the embedding table have deviation 1. Adam moves every number by about the learning rate, however small the number
    is, and tokens of one kind (names, say) at first all in one direction. What is a token's own must be long beside that, or
    a model learns that a name comes next and never which: tiny with 0.1 had not after 6 million tokens, with 1 it has after one.
    """
    made = {}
    for name, shape in tensor_shapes(config).items():
        weights = random_tensor(name, shape, seed)  # matrices of deviation 1/√inputs; norms are 1
        if name == TABLE:
            weights *= np.float32(math.sqrt(config.d_model))
        elif len(shape) == 2 and ("_output" in name or "_down" in name):
            weights *= np.float32(1 / math.sqrt(2 * config.n_layers))
        elif name == head(config):
            weights *= np.float32(FIRST_LOGITS)
        elif name == "output_norm.weight" and config.tied:
            weights *= np.float32(FIRST_LOGITS / math.sqrt(config.d_model))
        elif name.endswith(".bias"):
            weights[:] = 0
        made[name] = weights
    return made


def loss(
    config: ModelConfig, parameters: Mapping[str, Any], tokens: Array, targets: Array, *, products: Products = EVERY_WEIGHT
) -> float:
    """ModelConfig, {name: array}, (batch, length) ints, (batch, length) ints -> float

    The mean cross-entropy of the targets that are not -1, by forward alone. products, errors: as loss_and_gradients.
    """
    tokens, targets = checked(config, tokens, targets)
    return cross_entropy(logits(config, parameters, tokens, products), targets.reshape(-1), gradient=False)[0]


def logits(  # …, (batch, length) -> (batch · length, vocab)
    config: ModelConfig, parameters: Mapping[str, Any], tokens: Array, products: Products = EVERY_WEIGHT
) -> Array:
    """Compute the logits after each token: those of Transformer.forward, for whole sequences and without a cache."""
    x, _ = forward(config, parameters, tokens, products=products)
    return products.forward(rms_norm(x, parameters["output_norm.weight"], config.norm_eps), parameters, head(config))


def loss_and_gradients(
    config: ModelConfig, parameters: Mapping[str, Any], tokens: Array, targets: Array, *, recompute: bool = False,
    products: Products = EVERY_WEIGHT
) -> tuple[float, dict[str, Array]]:
    """ModelConfig, {name: array}, (batch, length) ints, (batch, length) ints -> float, {name: array} of the same shapes

    The loss is the mean of -log p(target) over all positions whose target is not -1; targets[b, i] is what comes after
    tokens[b, : i + 1]. Shorter sequences are padded at the end: any token, target -1. The gradients are its derivatives, in
    the parameters' precision. recompute: keep only each layer's input, and run its forward again when backward gets there;
    same bits, a third more arithmetic. products: how matrices multiply, and which weights have gradients (layer.Products).
    MiniLLMError for shapes that differ, ids outside the vocabulary, too long sequences, or no target at all.
    """
    tokens, targets = checked(config, tokens, targets)
    flat, batch, angles = tokens.reshape(-1), len(tokens), angles_of(config, parameters, tokens)
    x, kept = forward(config, parameters, tokens, keep="inputs" if recompute else "all", products=products)
    norm = parameters["output_norm.weight"]
    h = rms_norm(x, norm, config.norm_eps)
    value, d_logits = cross_entropy(products.forward(h, parameters, head(config)), targets.reshape(-1))

    gradients: dict[str, Array] = {}
    d_h = products.backward(h, parameters, head(config), d_logits, gradients)
    del d_logits, h
    d_x, gradients["output_norm.weight"] = rms_norm_backward(x, norm, config.norm_eps, d_h)
    for i in reversed(range(config.n_layers)):
        w, seen = layer_weights(parameters, i), kept.pop()
        if recompute:
            _, seen = layer_forward(seen, w, config, angles, batch, products)
        d_x, of_layer = layer_backward(d_x, seen, w, config, angles, batch, products)
        gradients |= {f"blk.{i}.{name}": d for name, d in of_layer.items()}
    if products.trains(TABLE):
        if not config.tied:
            gradients[TABLE] = np.zeros_like(parameters[TABLE])
        embedding_backward(flat, d_x, gradients[TABLE])
    return value, {name: gradients[name] for name in parameters if products.trains(name)}


def forward(  # -> (batch · length, d_model), what layers kept
    config: ModelConfig, parameters: Mapping[str, Any], tokens: Array, keep: str = "none", products: Products = EVERY_WEIGHT
) -> tuple[Array, list]:
    """Run all layers, without the last norm. keep: "all" Activations, each layer's "inputs", or "none"."""
    angles = angles_of(config, parameters, tokens)
    kept: list[Activations | Array] = []
    seen: Any
    x = embed(tokens.reshape(-1), dense(parameters[TABLE]))
    for i in range(config.n_layers):
        y, seen = layer_forward(x, layer_weights(parameters, i), config, angles, len(tokens), products)
        if keep != "none":
            kept.append(seen if keep == "all" else x)
        x, seen = y, None  # or two layers' activations would be there at once
    return x, kept


def head(config: ModelConfig) -> str:
    """Return the matrix of the output head, (vocab, d_model)."""
    return TABLE if config.tied else "output.weight"


def layer_weights(parameters: Mapping[str, Any], i: int) -> dict[str, Any]:  # -> {short name: array}
    """Select the weights of layer i, without the `blk.i.` before their names."""
    prefix = f"blk.{i}."
    return {name.removeprefix(prefix): w for name, w in parameters.items() if name.startswith(prefix)}


def angles_of(  # (batch, length) -> (batch · length, d_head/2), (batch · length, d_head/2)
    config: ModelConfig, parameters: Mapping[str, Any], tokens: Array
) -> tuple[Array, Array]:
    """Compute cosine and sine of RoPE for every token, in the parameters' precision: every sequence starts at position 0."""
    magnitude = rope_magnitude(config.rope_scaling)
    cos, sin = rope_angles(np.arange(tokens.shape[1]), scaled_frequencies(config), magnitude)
    dtype, repeats = parameters["output_norm.weight"].dtype, (len(tokens), 1)
    return np.tile(cos.astype(dtype), repeats), np.tile(sin.astype(dtype), repeats)


def checked(  # -> (batch, length) int64, (batch, length) int64
    config: ModelConfig, tokens: Array, targets: Array
) -> tuple[Array, Array]:
    """Check tokens and targets: integers, or MiniLLMError for what would compute nonsense."""
    tokens, targets = np.asarray(tokens, np.int64), np.asarray(targets, np.int64)
    if tokens.ndim != 2 or tokens.size == 0 or tokens.shape != targets.shape:
        raise MiniLLMError(
            f"training needs tokens and targets of one shape (batch, length), found {tokens.shape} and {targets.shape}."
        )
    if tokens.shape[1] > config.context_length:
        raise MiniLLMError(f"sequences of {tokens.shape[1]:,} tokens do not fit the context of {config.context_length:,}.")
    for what, ids, lowest in (("tokens", tokens, 0), ("targets", targets, IGNORE)):
        if ids.min() < lowest or ids.max() >= config.vocab_size:
            found = f"{ids.min():,} to {ids.max():,}"
            raise MiniLLMError(f"{what} must be {lowest} to {config.vocab_size - 1:,}, found {found}.")
    return tokens, targets
