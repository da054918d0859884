"""FlashAttention-3 in FP8: tiles of 8-bit floats, and two ways to lose less by it.

Hopper's tensor cores multiply e4m3 twice as fast as 16-bit floats. Three significant bits are few, so FlashAttention-3
prepares Q, K and V before it rounds them, and P before the second product:

    Q, K   ─ rotate ─▶ QM, KM      a random Hadamard matrix spreads outliers over all components   "incoherent processing"
    Q,K,V  ─ scale ──▶ e4m3        one scale per tile of rows, instead of one per tensor           "block quantization"
    S = (s_q · s_k) Q₈ K₈ᵀ / √d    products of e4m3 are summed in float32; the scales of a tile are two numbers
    P = exp(S - m)    l += ΣP      the statistics m and l stay in float32, and l sums P before it is rounded
    acc += s_v · (256 P)₈ V₈ / 256   P lies in [0, 1]: times 2⁸ it lies below 448, and eight more powers of two survive

All of it costs the kernel nothing that shows: rotating and scaling happens where RoPE writes Q and K anyway. (The factor
256 is in the authors' code, as exp2(x - (m - 8)); the paper does not mention it.) What is left out here is what needs the
hardware: the layouts of registers, and V transposed in the kernel. For the overlap of softmax and products see pipeline.py.

Shah et al. 2024, arXiv:2407.08608, §3.3. What it gains is measured in fp8_error.py.
"""

import numpy as np
from numpy import ndarray as Array

from minillm.attention.mask import Mask, tiles
from minillm.attention.online_softmax import divide, finite, fresh_state, log_sum_exp
from minillm.attention.shapes import check_block, check_finite, check_shapes
from minillm.errors import MiniLLMError
from minillm.quantization.fp8 import round_e4m3, scale_of
from minillm.quantization.hadamard import random_signs, rotate

P_SCALE = np.float32(256)  # the largest power of two below 448: multiplying by it rounds nothing


def quantize_tiles(  # (n, heads, d) -> (n, heads, d) on the e4m3 grid, (tiles, heads)
    x: Array, block: int, per: str
) -> tuple[Array, Array]:
    """x ≈ x8 · scale. per "block": each tile of `block` rows of each head has its own scale; per "tensor": all have one."""
    cuts = tiles(0, len(x), block)
    if per == "tensor":
        scales = np.full((len(cuts), x.shape[1]), scale_of(x))
    else:
        scales = np.array([scale_of(x[rows], axis=(0, 2)) for rows in cuts], np.float32).reshape(len(cuts), x.shape[1])
    x8 = np.empty(x.shape, np.float32)
    for rows, scale in zip(cuts, scales, strict=True):
        x8[rows] = round_e4m3(x[rows] / scale[:, None])
    return x8, scales


def update_fp8(  # (r,), (r,), (r, d), (r, c), (c, d), () -> (r,), (r,), (r, d)
    m: Array, l: Array, acc: Array, scores: Array, v8: Array, v_scale: float
) -> tuple[Array, Array, Array]:
    """online_softmax.update with P rounded to e4m3 for the product with V, and for nothing else."""
    m_new = np.maximum(m, scores.max(axis=1))
    safe = finite(m_new)
    alpha = np.exp(m - safe)
    p = np.exp(scores - safe[:, None])
    l_new = alpha * l + p.sum(axis=1)
    acc_new = alpha[:, None] * acc + round_e4m3(P_SCALE * p) @ v8 * (v_scale / P_SCALE)
    return m_new, l_new, acc_new


def flash3_head(
    q8: Array, k8: Array, v8: Array, q_scales: Array, k_scales: Array, v_scales: Array, out: Array, lse: Array, mask: Mask,
    block_q: int, block_k: int
) -> None:
    """(n_q, d), (n_k, d), (n_k, d), (Tr,), (Tc,), (Tc,), (n_q, d), (n_q,): one head; fills out and lse.

    The loops of FlashAttention-2. Tiles of keys begin where the blocks of the quantization do, whatever the mask shows.
    """
    root = np.sqrt(np.float32(q8.shape[1]))
    for rows, q_scale in zip(tiles(0, mask.n_q, block_q), q_scales, strict=True):
        m, l, acc = fresh_state(q8[rows])
        for columns, k_scale, v_scale in zip(tiles(0, mask.n_k, block_k), k_scales, v_scales, strict=True):
            if mask.hides_all(rows, columns):
                continue
            scores = q8[rows] @ k8[columns].T * (q_scale / root * k_scale)
            m, l, acc = update_fp8(m, l, acc, mask.scores(scores, rows, columns), v8[columns], v_scale)
        out[rows], lse[rows] = divide(acc, l), log_sum_exp(m, l)


def flash3_attention(
    q: Array, k: Array, v: Array, *, per: str = "block", rotation: int | None = 0, causal: bool = True, window: int | None = None,
    offset: int | None = None, block_q: int = 128, block_k: int = 128
) -> tuple[Array, Array]:
    """(n_q, heads, d), (n_k, kv_heads, d), (n_k, kv_heads, d) -> (n_q, heads, d), (n_q, heads), all float32

    As flash_attention, with Q, K, V and P in e4m3. per: "block" or "tensor", what shares one scale. rotation: the seed of
    the random signs, or None to leave Q and K as they are; a rotation needs d to be a power of two.

    Raises MiniLLMError as flash_attention does, and where per is neither or d is no power of two.
    """
    n_q, heads, d, n_k, kv_heads = check_shapes(q, k, v)
    check_block(block_q=block_q, block_k=block_k)
    if per not in ("block", "tensor"):
        raise MiniLLMError(f"attention: scales are per 'block' or per 'tensor', found {per!r}.")
    mask = Mask(n_q, n_k, causal, window, offset)
    q, k, v = (check_finite(np.asarray(x, np.float32), **{name: x}) for name, x in {"q": q, "k": k, "v": v}.items())
    inputs = {"q": q, "k": k, "v": v}
    if rotation is not None:
        signs = random_signs(d, rotation)
        q, k = rotate(q, signs), rotate(k, signs)
    (q8, q_scales), (k8, k_scales), (v8, v_scales) = (
        quantize_tiles(x, block, per) for x, block in ((q, block_q), (k, block_k), (v, block_k))
    )
    out, lse = np.zeros((n_q, heads, d), np.float32), np.full((n_q, heads), -np.inf, np.float32)
    for h in range(heads):
        g = h * kv_heads // heads
        scales = q_scales[:, h], k_scales[:, g], v_scales[:, g]
        flash3_head(q8[:, h], k8[:, g], v8[:, g], *scales, out[:, h], lse[:, h], mask, block_q, block_k)
    return check_finite(out, **inputs), lse
