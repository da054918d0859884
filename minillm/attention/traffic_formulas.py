"""What attention must move, worked out on paper: the formulas that traffic.py's counts equal, and what follows from them.

Count how often each array passes by. K and V outside (FlashAttention-1): K and V come once, and for each of the Tc column
tiles Q comes in, O comes in and goes out. Q outside (FlashAttention-2): Q and O pass once, K and V once per row tile.

    K, V outside   Tc = Nk / Bc   2·Nk·d + 3·Nq·d·Tc         Q outside   Tr = Nq / Br   2·Nq·d + 2·Nk·d·Tr

Whatever is outside passes once, so give it the large tile: a quarter of the fast memory, M / 4d rows. Then the number of
passes, and with it the traffic, goes as 1/M: double the fast memory and half as much is moved, a slope of -1 on log-log
paper. Every count here is in elements of one head; a byte is a matter of the number format.

Dao et al. 2022, arXiv:2205.14135, Algorithm 1 (block sizes), Theorem 2, Figure 2 left (the GPT-2 medium table).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minillm.attention.flash import flash1_head, flash2_head
from minillm.attention.traffic import Traffic, measure, standard_head
from minillm.errors import MiniLLMError


def head_traffic(
    n_q: int, n_k: int, d: int, block_q: int | None = None, causal: bool = False, bytes_per_value: int = 2
) -> tuple[int, int]:  # -> bytes read, bytes written
    """Count the bytes that one head reads from slow memory, and those that it writes there.

    block_q None: the textbook's three kernels, scores, softmax and weights times V. Each takes what it needs from slow memory
    and leaves its result there, a matrix of scores or weights in full, with a causal mask as well.
    Else FlashAttention-2: tiles of block_q rows, the last one shorter. While a tile of Q stays in fast memory, the keys and
    values pass by that its rows see: `row_tiles` lists the tiles, `sees` says how many keys. It leaves its rows of O, and of
    each row one number, the log-sum-exp.
    """
    # BEGIN SOLUTION ex=03.7
    if block_q is None:
        matrix = n_q * n_k
        read, written = (n_q + 2 * n_k) * d + 2 * matrix, n_q * d + 2 * matrix
    else:
        keys = sum(sees(n_q, n_k, stop, causal) for _, stop in row_tiles(n_q, block_q))
        read, written = n_q * d + 2 * keys * d, n_q * d + n_q
    return read * bytes_per_value, written * bytes_per_value
    # END SOLUTION


def standard_moved(n_q: int, n_k: int, d: int) -> int:  # -> elements
    """Count what the textbook's three kernels read and write. Masked scores are moved like all others."""
    return sum(head_traffic(n_q, n_k, d, bytes_per_value=1))


def flash1_moved(n_q: int, n_k: int, d: int, block_q: int, block_k: int, causal: bool = False) -> int:  # -> elements
    """Count: each K, V tile comes once, whether seen or not; each visited tile moves Q, O twice, m twice, l twice.

    At the end each row's m and l come in once more, and their log-sum-exp goes out.
    """
    visited = sum(rows for rows, stop in row_tiles(n_q, block_q) for start in range(0, sees(n_q, n_k, stop, causal), block_k))
    return 2 * n_k * d + visited * (3 * d + 4) + 3 * n_q


def flash2_moved(n_q: int, n_k: int, d: int, block_q: int, block_k: int, causal: bool = False) -> int:  # -> elements
    """Count what tiles of block_q rows read and write; block_k changes nothing."""
    return sum(head_traffic(n_q, n_k, d, block_q, causal, bytes_per_value=1))


def row_tiles(n_q: int, block_q: int) -> list[tuple[int, int]]:  # -> [(rows, stop)]
    """List the number of rows of each tile of Q, and where it ends."""
    stops = [min(start + block_q, n_q) for start in range(0, n_q, block_q)]
    return [(stop - start, stop) for start, stop in zip([0, *stops], stops, strict=False)]


def sees(n_q: int, n_k: int, stop: int, causal: bool) -> int:  # -> keys
    """Count the keys that the rows before `stop` see: causal, the last of n_q rows sees all n_k, each one before it one less."""
    return min(n_k, max(0, n_k - n_q + stop)) if causal else n_k


def matmul_flops(n_q: int, n_k: int, d: int, products: int = 2) -> int:  # -> FLOPs
    """Count FLOPs. Forward: 2 products, S and PV. Backward: 4 more, and a 5th with FlashAttention, which recomputes S."""
    return products * 2 * n_q * n_k * d


def flash1_scalings(n_q: int, n_k: int, d: int, block_k: int) -> int:  # -> multiplications and divisions, without a mask
    """Count scalings: scores by 1/√d; for each column tile l by alpha, and O three times: undo the division, shrink, divide."""
    passes = -(-n_k // block_k)
    return n_q * n_k + passes * n_q * (1 + 3 * d)


def flash2_scalings(n_q: int, n_k: int, d: int, block_k: int) -> int:  # -> multiplications and divisions, without a mask
    """Count scalings: Q once by 1/√d; for each column tile l by alpha, and O once: shrink. One division at the end."""
    passes = -(-n_k // block_k)
    return 2 * n_q * d + passes * n_q * (1 + d)


def block_sizes(head: Callable, memory: int, d: int) -> tuple[int, int]:  # loop, elements, components -> block_q, block_k
    """Choose tiles for a fast memory of so many elements: M / 4d rows for the outer loop, at most d for the inner one.

    As in FlashAttention-1's Algorithm 1, where K and V are outside; for FlashAttention-2 the roles are swapped. K, V (or Q
    and acc) then fill half of M and the scores a quarter at most; NumPy's intermediate results come on top.
    """
    outside = -(-memory // (4 * d))
    inside = min(outside, d)
    return (inside, outside) if head is flash1_head else (outside, inside)


def tile_bytes(block_q: int, block_k: int, d: int, bytes_per_value: int = 2) -> int:  # -> bytes
    """Count what FlashAttention-2 holds at once: tiles of Q, K and V; in float32 acc, the scores, and m and l of each row."""
    return (block_q + 2 * block_k) * d * bytes_per_value + 4 * block_q * (d + block_k + 2)


def rows_per_tile(n_q: int, d: int, memory: int, block_k: int = 16, bytes_per_value: int = 2) -> int:  # -> block_q
    """Choose the rows of a tile of Q, so that FlashAttention-2 moves as few bytes as a fast memory of so many allows.

    tile_bytes says what a tile takes; block_k is given: a matrix unit takes 16 keys at once, and more of them save no traffic.
    K and V pass by once for each tile of Q, so take as few tiles as fit. Then make them equally high; only the last may be a
    little shorter. With a causal mask a tile reads keys as far as its last row sees, so in a tile that is higher than it must be
    the first rows are shown keys that they do not see. At least 1, also of no rows.

    Raises MiniLLMError where the memory does not hold a tile of one row.
    """
    if (least := tile_bytes(1, block_k, d, bytes_per_value)) > memory:
        raise MiniLLMError(f"a tile of one row takes {least:,} bytes, fast memory has {memory:,}: take less than {block_k} keys.")
    # BEGIN SOLUTION ex=03.8
    row = tile_bytes(1, block_k, d, bytes_per_value) - tile_bytes(0, block_k, d, bytes_per_value)
    most = (memory - tile_bytes(0, block_k, d, bytes_per_value)) // row
    passes = max(1, -(-n_q // most))  # of K and V
    return max(1, -(-n_q // passes))
    # END SOLUTION


def memory_sweep(  # [elements] -> [Traffic], slope
    head: Callable, n: int, d: int, memories: list[int], causal: bool = False
) -> tuple[list[Traffic], float]:
    """Count one head of n × n for each size of fast memory; and the log-log slope of what was moved, near -1."""
    counts = [measure(head, n, n, d, *block_sizes(head, memory, d), causal) for memory in memories]
    return counts, float(np.polyfit(np.log(memories), np.log([c.moved for c in counts]), 1)[0])


def gpt2_medium_table(
    memory: int = 192 * 1024 // 2, n: int = 1024, d: int = 64, heads: int = 16, batch: int = 64
) -> list[dict[str, Any]]:
    """Reproduce the paper's Figure 2 (left) in miniature: one head counted, times heads × batch, two bytes an element.

    memory: one A100 multiprocessor has 192 KiB of fast memory. Columns: what, gb (1e9 bytes of traffic), gflop (of matrix
    products), times_fewer_bytes, times_flop (both against the row of standard attention of the same source).

    What can be compared: the ratios. Ours count the forward pass without mask or dropout; the paper measured forward and
    backward on an A100, with a framework that moves the matrix more often than the four times of the algorithm (40.3 GB
    are 18.8 passes over all its scores). Forward, FlashAttention has not one FLOP more: the paper's 13% are the
    scores made again in the backward, a 7th product after 6 (+17% of matrix products; the paper counts other work too).
    Its absolute FLOPs are not ours to match: the 8.6 GFLOP it adds are 2·N²·d for 64 heads, where batch 64 has 1,024.
    """
    times = heads * batch
    runs = {
        "standard": measure(standard_head, n, n, d, 64, n),
        "FlashAttention-1": measure(flash1_head, n, n, d, *block_sizes(flash1_head, memory, d)),
        "FlashAttention-2": measure(flash2_head, n, n, d, *block_sizes(flash2_head, memory, d)),
    }
    counted = [(f"{name}: forward, counted", 2 * c.moved * times / 1e9, c.flops * times / 1e9) for name, c in runs.items()]
    backward = [
        ("standard: forward + backward, formula", None, matmul_flops(n, n, d, 2 + 4) * times / 1e9),
        ("FlashAttention: forward + backward, formula", None, matmul_flops(n, n, d, 2 + 5) * times / 1e9),
    ]
    paper = [
        ("standard: forward + backward, paper", 40.3, 66.6),
        ("FlashAttention: forward + backward, paper", 4.4, 75.2),
    ]
    table = []
    sources: list[Sequence[tuple[str, Any, float]]] = [counted, backward, paper]
    for source in sources:
        _, gb_0, gflop_0 = source[0]
        for what, gb, gflop in source:
            ratios = {"times_fewer_bytes": gb and gb_0 / gb, "times_flop": gflop / gflop_0}
            table.append({"what": what, "gb": gb, "gflop": gflop, **ratios})
    return table
