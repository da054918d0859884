"""Attention by tiles: FLOPs, and elements moved between slow and fast memory. One head over n tokens, no mask.

    standard   4 n d + 4 n²                the scores and the weights written and read
    FA-1       2 n d + 3 n d ⌈n / B_k⌉     the outer loop over keys:     Q and O come for each of its tiles, O goes
    FA-2       2 n d + 2 n d ⌈n / B_q⌉     the outer loop over queries:  K and V come for each of its tiles

Dao et al. 2022, arXiv:2205.14135; Dao 2023, arXiv:2307.08691. attention/traffic.py counts them on real arrays.
"""

import math


def attention_scores_bytes(heads: int, n: int, bytes_per_value: int = 2) -> int:  # -> bytes
    """Count the bytes of the scores of `heads` heads over n tokens: standard attention holds them, FlashAttention does not."""
    return heads * n * n * bytes_per_value


def attention_flops(n: int, d: int) -> int:  # -> FLOPs
    """Count the FLOPs of Q Kᵀ and P V: 2 for each of n · n · d products."""
    return 4 * n * n * d


def standard_traffic(n: int, d: int) -> int:  # -> elements moved
    """Count the traffic of standard attention: Q, K, V and O once; the scores and the weights written and read."""
    return 4 * n * d + 4 * n * n


def flash1_traffic(n: int, d: int, block_k: int) -> int:  # -> elements moved, without the statistics
    """Count the traffic of FlashAttention-1: K and V once; for each column tile, Q and O are read and O is written."""
    return 2 * n * d + 3 * n * d * math.ceil(n / block_k)


def flash2_traffic(n: int, d: int, block_q: int) -> int:  # -> elements moved, without the log-sum-exp
    """Count the traffic of FlashAttention-2: Q and O once; for each row tile, K and V are read."""
    return 2 * n * d + 2 * n * d * math.ceil(n / block_q)


def rescale(m: float, m_new: float) -> float:  # -> alpha
    """Compute the factor by which online softmax shrinks its sums when the maximum rises from m to m_new: exp(m - m_new)."""
    return math.exp(m - m_new)
