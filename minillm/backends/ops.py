"""The contract of a backend: which operations it must have, which it may have, and where arrays live.

A backend is a module. The fields of `Ops` are the names of its functions; the comment beside each says what goes in and what
comes out. numpy_.py hands on the reference of floor 1, so the answer that each operation must give can be read there.

    host      NumPy arrays: token ids, block tables, files, what sampling reads
    device    arrays of the backend: weights, activations, keys and values, logits

On a CPU both are the same memory, and `upload` and `download` give back what they are given. On a GPU each is a trip over the
bus, so a step makes two: `upload` takes its tokens, positions, slots and block tables at once, `download` brings back what it
drew. Every other argument and result of an operation is on the device; the operation allocates its result. Model, caches,
stores and executor never call NumPy on such an array. They may ask for its shape, dtype, nbytes and len; reshape it; take and
assign slices, or rows by an array of row numbers (on the device too); add two of them. float32 unless a name says otherwise.
"""

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, replace
from functools import cache
from types import ModuleType

from minillm.errors import MiniLLMError

BLOCK_TOKENS = 64  # of block_sums


@dataclass(frozen=True, repr=False)
class Ops:
    """The operations of one backend. To change some for a purpose: `dataclasses.replace`, or `with_attention`."""

    name: str
    summary: str  # one line for people

    # --- arrays ---------------------------------------------------------------------------------------------------------------
    empty: Callable  # shape, dtype=float32 -> an array of unknown content
    zeros: Callable  # shape, dtype=float32 -> an array of zeros
    upload: Callable  # [host arrays of one dtype] -> [the same on the device]: one transfer for all
    download: Callable  # array -> NumPy array: one transfer, and it waits for the result

    # --- weights --------------------------------------------------------------------------------------------------------------
    load_matrix: Callable  # StoredTensor -> what linear and embed take; of a vector: (d,) float32
    prepare_layers: Callable  # [LayerWeights] -> the layers as run_layers takes them: a sequence of LayerWeights

    # --- the forward pass: w is a LayerWeights, c a ModelConfig -----------------------------------------------------------------
    embed: Callable  # tokens (n,) int64, matrix (vocab, d) -> (n, d)
    rope_angles: Callable  # positions (n,) int64, frequencies (d_head/2,), magnitude=1.0 -> cos, sin: (n, d_head/2)
    rms_norm: Callable  # x (..., d), weight (d,), eps -> (..., d)
    linear: Callable  # x (n, d_in), matrix (d_out, d_in), bias (d_out,) or None -> (n, d_out)
    add_linear: Callable  # x (n, d_out), h (n, d_in), matrix -> x + h Wᵀ
    attention_inputs: Callable  # x (n, d), w, c, cos, sin -> q (n, heads, d_head), k and v (n, kv_heads, d_head)
    add_feed_forward: Callable  # x (n, d), w, c -> (n, d)
    run_layers: Callable  # x (n, d), layers, c, (cos, sin), AttentionStep -> (n, d): all layers
    most_likely: Callable  # logits (n, vocab) -> (n,) int64: the largest of each row, -1 where it is NaN or infinite

    # --- attention: each of the last n_q of n_k tokens sees itself and all before it; k and v may be float16 --------------------
    attention: Callable  # q (n_q, heads, d), k, v (n_k, kv_heads, d) -> (n_q, heads, d)
    paged_attention: Callable  # q, pages (blocks, size, kv_heads, d) of k and of v, table (blocks,) int64, n_k -> (n_q, heads, d)
    AttentionStep: Callable  # ops, [Segment], [slice] -> attention of all segments, layer by layer (step.py)

    # --- what a backend may have ------------------------------------------------------------------------------------------------
    kv_dtype: str = "float32"  # of keys and values, where the user leaves it to the backend
    # Layers, [(LoadedAdapter, rows)] -> layers, with the adapters in its own kernels. A backend that has no such function takes
    # linear= in attention_inputs and add_feed_forward, and calls it in place of its own.
    routed_layers: Callable | None = None
    invariant: Callable | None = None  # () -> {name: operation}, with one order of additions for every shape (invariant.py)
    # () -> {name: operation}, with x rounded to 8 bits before products with packed matrices (activations.py)
    int8_activations: Callable | None = None
    activations: str = "exact"  # or "int8"
    # Formats of quantized keys and values (quantization/kv_formats.py) that kernels read where they lie, by name; and attention
    # over them: q, pages (blocks, size, kv_heads, width) uint8 of k and v, table, n_k, KVFormat -> as attention. encode_kv:
    # k or v (n, kv_heads, d), KVFormat -> (n, kv_heads, width) uint8, the bytes of KVFormat.encode
    kv_formats: tuple[str, ...] = ()
    quantized_attention: Callable | None = None
    encode_kv: Callable | None = None
    flash_attention: Callable | None = None  # q, k, v, causal=, window=, offset= -> out, log-sum-exp (n_q, heads)
    split_kv_attention: Callable | None = None  # q, k, v, splits, causal=, window=, offset= -> as flash_attention
    # logits (n, vocab), temperatures, top_ps (n,) -> of each 64 tokens the largest (n, vocab / 64), and Σ e^((x - best) / t),
    # in float64; where top-p keeps more than these tell: a width (n,), and how many logits are 0, 1, … widths below the best
    block_sums: Callable | None = None
    compiling: Callable | None = (
        None  # types of matrices -> a context manager around the first steps, which compile
    )
    ready: Callable | None = None  # types of matrices -> whether kernels for them are compiled and kept
    state: Callable | None = None  # () -> {what: value} for `minillm backends`

    def with_attention(self, attention: Callable, paged_attention: Callable | None = None) -> "Ops":
        """Replace the attention of a backend; its fast paths over many sequences, which would bypass it, are replaced too."""
        from minillm.backends.step import AttentionStep
        from minillm.layers import run_layers

        paged = paged_attention or self.paged_attention
        changed = replace(self, attention=attention, paged_attention=paged, AttentionStep=AttentionStep, run_layers=run_layers)
        return replace(changed, kv_formats=(), quantized_attention=None)


REQUIRED = [f.name for f in fields(Ops) if f.default is MISSING and f.name not in ("name", "summary")]


@cache
def ops_of(module: ModuleType) -> Ops:
    """Collect the operations of a module. MiniLLMError names what it lacks of the contract."""
    name = module.__name__.rpartition(".")[2].removesuffix("_")
    found = {f.name: getattr(module, f.name) for f in fields(Ops) if hasattr(module, f.name)}
    if missing := [required for required in REQUIRED if not callable(found.get(required))]:
        raise MiniLLMError(
            f"the {name} backend has {len(REQUIRED) - len(missing)} of the {len(REQUIRED)} operations of backends/ops.py; "
            f"missing: {', '.join(missing)}."
        )
    return Ops(**{"name": name, "summary": (module.__doc__ or name).splitlines()[0]} | found)
