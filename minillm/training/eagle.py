"""An EAGLE head: one layer that learns to guess what the whole model will think next.

A draft model starts from tokens. But the target has just computed f_t, the vector from which its head read token t+1, and there
is more in it than the token that was drawn. So draft with the target's own vectors: from f_t and the token that was drawn,
guess f_{t+1}; the target's own LM head turns the guess into a distribution, and its draw is the next input.

    f_t ──────┐                                                         wanted: f_{t+1} of the target, and what it says
              ├─ fc ─ one layer, over all positions so far ─ f̂_{t+1} ─ LM head of the target ─ q, a guess at p of token t+2
    E[x_t+1] ─┘
    L = mean smooth-L1(f̂ - f) + weight · KL(p ‖ q)                      E, head and target stay as they are

f is taken after the last norm: before it, vectors of one text differ tenfold in length (the first token's is the longest), and
only the direction reaches the head. At work f̂ is fed back, so its errors add up; `own_features` lets training see that.

Most of a draft step is the target's LM head. `short_vocabulary` keeps its most frequent rows: a token that is left out is
never proposed, and is still said, by the target. Li et al. 2024, arXiv:2401.15077 (EAGLE). Zhao et al. 2025,
arXiv:2502.14856 (a short vocabulary). Zhang et al. 2024, arXiv:2408.15766 (training on the head's own guesses).
"""

import numpy as np
from numpy import ndarray as Array

from minillm.layers import linear, rope_angles, softmax
from minillm.model.config import ModelConfig
from minillm.model.random_model import random_tensor
from minillm.model.rope_scaling import rope_magnitude, scaled_frequencies
from minillm.speculative.eagle import FC, head_shapes
from minillm.training.layer import layer_backward, layer_forward
from minillm.training.model import layer_weights

ROWS = 128  # of logits at a time


def head_parameters(config: ModelConfig, seed: int = 0) -> dict[str, Array]:  # head_config's, int -> {name: float32 array}
    """Initialize a head. fc passes the vector on and adds a little of the token; what a layer adds to it starts small.

    So the first guess is f̂ = f, nothing changes, and there is something to improve from the first step on.
    """
    made = {name: random_tensor(name, shape, seed) for name, shape in head_shapes(config).items()}
    made[FC] *= np.float32(0.1)
    made[FC][:, config.d_model :] += np.eye(config.d_model, dtype=np.float32)
    for name in made:
        if "_output" in name or "_down" in name:
            made[name] *= np.float32(0.1)
    return made


def forward(config: ModelConfig, parameters: dict[str, Array], features: Array, embedded: Array) -> tuple[Array, tuple]:
    """(batch, n, d_model), (batch, n, d_model) -> (batch · n, d_model), what backward needs

    features: f_t of positions 0 to n - 1. embedded: the embedding rows of the tokens at 1 to n. Result: f̂ at 1 to n.
    """
    batch, n, d = features.shape
    both = np.concatenate([embedded, features], axis=2).reshape(-1, 2 * d)
    cos, sin = rope_angles(np.arange(n), scaled_frequencies(config), rope_magnitude(config.rope_scaling))
    angles = np.tile(cos.astype(both.dtype), (batch, 1)), np.tile(sin.astype(both.dtype), (batch, 1))
    x = linear(both, parameters[FC])
    y, seen = layer_forward(x, layer_weights(parameters, 0), config, angles, batch)
    return y, (both, seen, angles)


def loss_and_gradients(
    config: ModelConfig, parameters: dict[str, Array], head: Array, features: Array, embedded: Array, wanted: Array,
    counted: Array, weight: float
) -> tuple[float, dict[str, Array]]:
    """head_config's, {name: array}, (vocab, d_model), (batch, n, d_model) three times, (batch, n) bool, float
    -> float, {name: array} of the parameters' shapes

    features, embedded: as in forward. wanted: f at positions 1 to n. counted: those positions that the loss is the mean of.
    head: rows of the target's LM head, all or some. weight: of the divergence, beside the distance.
    """
    predicted, (both, seen, angles) = forward(config, parameters, features, embedded)
    rows, d_y = np.flatnonzero(counted), np.zeros_like(predicted)
    value, d_y[rows] = distillation(predicted[rows], wanted.reshape(predicted.shape)[rows], head, weight)
    d_x, of_layer = layer_backward(d_y, seen, layer_weights(parameters, 0), config, angles, len(features))
    gradients = {f"blk.0.{name}": gradient for name, gradient in of_layer.items()} | {FC: d_x.T @ both}
    return value, {name: gradients[name] for name in parameters}


def distillation(  # (n, d), (n, d), (vocab, d), float -> float, (n, d)
    found: Array, wanted: Array, head: Array, weight: float
) -> tuple[float, Array]:
    """Compute the distance of vectors from those wanted, and the divergence of what the head makes of both; and the gradient.

    Smooth L1 of e = f̂ - f is e²/2 within ±1 and |e| - 1/2 beyond: a few components are ten times the others, and their squares
    would be all that counts. KL(p ‖ q) is 0 where q is p, and its gradient by the logits is q - p.
    """
    n, e = len(found), found - wanted
    value = float(np.where(np.abs(e) < 1, e * e / 2, np.abs(e) - 0.5).mean(dtype=np.float64))
    d_found = np.clip(e, -1, 1) / e.dtype.type(e.size)
    for start in range(0, n, ROWS):
        rows = slice(start, start + ROWS)
        p, log_p = both_softmaxes(linear(wanted[rows], head))
        q, log_q = both_softmaxes(linear(found[rows], head))
        value += weight * float(np.einsum("tv,tv->", p, log_p - log_q, dtype=np.float64)) / n
        q -= p
        d_found[rows] += e.dtype.type(weight / n) * (q @ head)
    return value, d_found


def both_softmaxes(logits: Array) -> tuple[Array, Array]:  # (n, vocab) -> probabilities, their logarithms
    p = softmax(logits)
    log_p = logits - logits.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    return p, log_p


def own_features(  # …, (batch, n) bool -> (batch, n, d_model)
    config: ModelConfig, parameters: dict[str, Array], features: Array, embedded: Array, where: Array
) -> Array:
    """Replace features by the head's own guesses in the places of `where`, but for the first of a text, which it cannot guess.

    No gradient goes through a guess. A second guess, from these, is what the head will have to make when it drafts.
    """
    guessed, _ = forward(config, parameters, features, embedded)
    mixed, where = features.copy(), where[:, 1:]
    mixed[:, 1:][where] = guessed.reshape(features.shape)[:, :-1][where]
    return mixed


def short_vocabulary(ids: Array, size: int, vocab_size: int) -> Array:  # (…) token ids, int, int -> (size,) int32, rising
    """Find the tokens that a text uses most. Where it uses fewer, the lowest ids follow.

    BPE numbers tokens as it merged them, the most frequent pairs first.
    """
    counts = np.bincount(np.ravel(ids), minlength=vocab_size)
    return np.sort(np.lexsort((np.arange(vocab_size), -counts))[:size]).astype(np.int32)
