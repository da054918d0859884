"""Bytes: weights, keys and values, blocks, and what training adds to them.

What one token or one weight takes is a method of ModelConfig (model/config.py); here are the questions asked of a whole
machine: how much fits, and what share of it is wasted. `config` is a ModelConfig, or anything with its fields and methods.

    weights   parameters × bits / 8           KV   2 (K and V) × layers × kv_heads × d_head × bytes, for each token
"""

import math
from typing import Any

from minillm.errors import MiniLLMError

KV_NAMES = ("float32", "float16", "int8", "int4", "fp8", "kivi2", "kivi4", "rot4")  # what keys and values may be kept in


def kv_bits(name: str, d_head: int, group: int = 32) -> float:  # -> bits a number, the mean of keys and values
    """Count the bits that a number takes in a KV cache, scales included.

    A row of d_head numbers has a float16 scale (int8, fp8), or a scale and a minimum (int4, rot4). KIVI: so for values, and keys
    share both along a channel, `group` tokens long. What it keeps in full is of a sequence, not of a token: kivi_window_bytes.
    """
    if name in ("float32", "float16"):
        return float(name.removeprefix("float"))
    row = {"int8": 8 + 16 / d_head, "fp8": 8 + 16 / d_head, "int4": 4 + 32 / d_head, "rot4": 4 + 32 / d_head}
    if name in row:
        return row[name]
    if name not in KV_NAMES:
        raise MiniLLMError(f"keys and values are kept in {', '.join(KV_NAMES[:-1])} or {KV_NAMES[-1]}, found {name[:40]!r}.")
    return int(name.removeprefix("kivi")) + (32 / group + 32 / d_head) / 2


def kv_token_bytes(config: Any, name: str) -> int:
    """Count the bytes that one token adds to a KV cache of this kind, over all layers."""
    return round(config.kv_bytes_per_token(kv_bits(name, config.d_head) / 8))  # d_head need not be a power of two


def kivi_window_bytes(config: Any, name: str, group: int = 32) -> int:
    """Count the bytes that a sequence keeps in full between steps, at most: KIVI's own group and the one before, in float16."""
    return (2 * group - 1) * config.kv_bytes_per_token(2) if name.startswith("kivi") else 0


def kv_tokens(  # -> tokens
    config: Any, memory: float, utilization: float = 0.9, weight_bits: float = 16, kv_bits: float = 16
) -> float:
    """Count the tokens of KV cache that fit beside the weights in `memory` bytes, of which a share may be used."""
    return max(0, (memory * utilization - config.weight_bytes(weight_bits)) // config.kv_bytes_per_token(kv_bits / 8))


def training_bytes(config: Any, bytes_per_parameter: float = 16) -> float:  # -> bytes
    """Count the bytes of weights, gradients and optimizer state, without activations.

    Mixed precision with Adam: 2 (weights) + 2 (gradients) + 4 + 4 + 4 (float32 weights and two moments) bytes a parameter.
    Rajbhandari et al. 2020, arXiv:1910.02054.
    """
    return config.parameters() * bytes_per_parameter


def grid_bits(bits: float, group: int, scale_bits: float = 16, minimum_bits: float = 16) -> float:  # -> bits a weight
    """Count the bits of a weight whose group shares a scale and a minimum: its code, and its share of both."""
    return bits + (scale_bits + minimum_bits) / group


def affordable_bits(  # -> bits a weight
    config: Any, memory: float, tokens: float, utilization: float = 0.9, kv_bits: float = 16
) -> float:
    """Count the bits that each weight may take, scales included, where `tokens` tokens of KV cache must fit beside the weights.

    memory: bytes of the machine, of which the share `utilization` may be used. kv_bits: of a number in the cache. All parameters
    are counted alike. Where the cache alone is too large, nothing is left: 0.
    """
    # BEGIN SOLUTION ex=07.1
    left = memory * utilization - tokens * config.kv_bytes_per_token(kv_bits / 8)
    return max(0.0, 8 * left / config.parameters())
    # END SOLUTION


def nf4_bits(block: int = 64, group: int = 256) -> float:  # -> bits a weight
    """Count the bits of a weight in NF4 with double quantization: the code, a share of an 8-bit scale, and of its float32."""
    return 4 + 8 / block + 32 / (block * group)


def blocks_for(tokens: int, block_size: int = 16) -> int:  # -> blocks
    """Count the blocks that a sequence holds: the last one may be partly filled."""
    return math.ceil(tokens / block_size)


def paged_waste(tokens: int, block_size: int = 16) -> float:  # -> share of the slots held
    """Compute the wasted share for sequences of `tokens` tokens on average: the last block lacks (B - 1) / 2 of its B tokens."""
    empty = (block_size - 1) / 2
    return empty / (tokens + empty)


def reserved_waste(tokens: int, reserved: int) -> float:  # -> share of the slots held
    """Compute the wasted share for sequences of `tokens` tokens on average, each with room reserved for `reserved`."""
    return 1 - tokens / reserved


def forked_blocks(prompt: int, new: int, samples: int, block_size: int = 16) -> int:  # -> blocks
    """Count the blocks that several answers to one prompt hold together, when each has `new` tokens of its own.

    Copy-on-write: a block is shared as long as nobody writes to it. The answers write behind the prompt, and where its last block
    has room left, they write into that block: then each of them has one of its own (one the old block, the others copies).
    Before the first token of an answer (new = 0) all blocks are shared. A sequence of n tokens holds blocks_for(n, block_size).
    """
    # BEGIN SOLUTION ex=04.6
    if new == 0:
        return blocks_for(prompt, block_size)
    shared = prompt // block_size  # full: nobody writes to them any more
    return shared + samples * (blocks_for(prompt + new, block_size) - shared)
    # END SOLUTION


def collision_probability(names: float, bits: int) -> float:  # -> probability, at most
    """Compute the probability that two of n random hashes of `bits` bits are equal: n (n - 1) / 2 pairs, each with 2^-bits."""
    return min(1.0, names * (names - 1) / 2 / 2.0**bits)
