"""The order of the rows of Q and K: the two conventions of RoPE differ by it, and by nothing else.

RoPE turns pairs of components of a head. Hubs pair component i with i + d/2 (halves), and so do GGUF files of Qwen; a GGUF file
of a Llama pairs 2i with 2i + 1 (neighbours). Component r of a head is row r of its part of the matrix, so a matrix changes
conventions by a change of rows, and both kinds of file compute the same scores:

    hub       0 1 2 3 | 4 5 6 7       pairs (0, 4) (1, 5) (2, 6) (3, 7)
    llama     0 4 1 5 | 2 6 3 7       the same pairs, side by side

Source: llama.cpp's converter, LlamaModel.permute.
"""

import numpy as np

from minillm.model.config import ModelConfig

TURNED = ("attn_q", "attn_k")  # what RoPE turns: the weights, and the biases where there are some


def neighbours_from_halves(rows: int, d_head: int) -> np.ndarray:  # -> (rows,): which row of the hub's comes where
    return np.arange(rows).reshape(-1, 2, d_head // 2).swapaxes(1, 2).reshape(-1)


def halves_from_neighbours(rows: int, d_head: int) -> np.ndarray:  # -> (rows,): the way back
    return np.arange(rows).reshape(-1, d_head // 2, 2).swapaxes(1, 2).reshape(-1)


def is_turned(name: str, config: ModelConfig) -> bool:
    """Whether a tensor, by GGUF's name, has another order in a hub's folder. config: of the GGUF file."""
    return config.rope_interleaved and name.split(".")[-2] in TURNED
