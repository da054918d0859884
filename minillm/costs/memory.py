"""Bytes: weights, keys and values, blocks, and what training adds to them.

What one token or one weight takes is a method of ModelConfig (model/config.py); here are the questions asked of a whole
machine: how much fits, and what share of it is wasted. `config` is a ModelConfig, or anything with its fields and methods.

    weights   parameters × bits / 8           KV   2 (K and V) × layers × kv_heads × d_head × bytes, for each token
"""

import math
from typing import Any


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
