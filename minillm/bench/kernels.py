"""From the naive loop to the last kernel: one token through all matrices of a model, step by step; then many tokens.

A benchmark that multiplies by the same matrix again and again measures the cache: a matrix of a small model fits there,
the model does not. Here a run passes through random weights in the shape of a whole model, so each matrix comes from
memory, as in a decode step. Attention is left out: the tokens/s are those of the products alone.

The second half finds the thresholds of backends/numba_/crossover.py.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from minillm import terminal
from minillm.bench.machine import Machine, best_of, measure_machine
from minillm.model.config import ModelConfig

TOKENS = (1, 2, 4, 8, 16, 32, 128, 512)
FEW = (1, 2, 3, 4, 6, 8, 12, 16, 32)


@dataclass(frozen=True)
class Model:
    """Random Q4_1 weights: per layer q, k, v, o, gate, up, down, in the file's order and packed; and a head."""

    config: Any  # ModelConfig
    layers: list  # of {name: (raw, PackedMatrix)}
    head: tuple

    def matrices(self) -> Iterator[Any]:
        for layer in self.layers:
            yield from layer.values()
        yield self.head

    @property
    def weights(self) -> int:
        return sum(packed.shape[0] * packed.shape[1] for _, packed in self.matrices())

    @property
    def nbytes(self) -> int:
        return sum(packed.nbytes for _, packed in self.matrices())


def random_weights(config: ModelConfig, seed: int = 0) -> Model:
    """Copy the values of one layer: what a product costs depends on where weights lie, not on what they are."""
    from minillm.backends.numba_.packed import PackedMatrix, aligned, pack
    from minillm.formats.blocks import BLOCK_TYPES

    rng, kind = np.random.default_rng(seed), BLOCK_TYPES["Q4_1"]

    def draw(rows: int, columns: int) -> Any:
        blocks = rng.integers(0, 256, (rows * columns // 32, kind.bytes), np.uint8)
        blocks[:, 1:4:2] = 0x20, 0xA8  # the upper bytes of scale and minimum: about 0.01 and -0.04
        raw = blocks.reshape(-1)
        return raw.reshape(rows, -1, kind.bytes), pack(SimpleNamespace(raw=raw, type=kind, shape=(rows, columns)))

    def copy(raw: Any, packed: Any) -> Any:
        records = aligned(packed.records.shape, np.uint8)
        records[:] = packed.records
        return raw.copy(), PackedMatrix(records, packed.layout, packed.shape)

    c = config
    heads, kv = c.n_heads * c.d_head, c.n_kv_heads * c.d_head
    shapes = {"q": (heads, c.d_model), "k": (kv, c.d_model), "v": (kv, c.d_model), "o": (c.d_model, heads)}
    shapes |= {"gate": (c.d_ff, c.d_model), "up": (c.d_ff, c.d_model), "down": (c.d_model, c.d_ff)}
    layer = {name: draw(*shape) for name, shape in shapes.items()}
    layers = [{name: copy(*pair) for name, pair in layer.items()} for _ in range(c.n_layers)]
    return Model(c, layers, draw(c.vocab_size, c.d_model))


def ladder(model: Model, machine: Machine, runs: int = 3) -> list[dict[str, Any]]:  # -> [dict], a row for each step
    """Run one token through all matrices, by each step of backends/numba_/steps.py, and by the fused layers."""
    from minillm.backends.numba_ import steps

    rng = np.random.default_rng(1)
    x = {d: rng.standard_normal(d).astype(np.float32) for d in {packed.shape[1] for _, packed in model.matrices()}}
    pairs = list(model.matrices())

    def through(step: Callable) -> None:
        for raw, packed in pairs:
            step(x[packed.shape[1]], raw if step in steps.FILE_ORDER else packed)

    works = {step.__name__: lambda step=step: through(step) for step in steps.STEPS}
    works["fused"] = fused_pass(model, x[model.config.d_model][None])
    return [row(name, best_of(work, runs), model, machine) for name, work in works.items()]


def row(name: str, seconds: float, model: Model, machine: Machine) -> dict[str, Any]:
    return {
        "step": name,
        "seconds": seconds,
        "weights_per_s": model.weights / seconds,
        "bytes_per_s": model.nbytes / seconds,
        "tokens_per_s": 1 / seconds,
        "share_of_bandwidth": model.nbytes / seconds / machine.read_bytes_per_s,
    }


def fused_pass(model: Model, x: np.ndarray) -> Any:
    """Run the layers as the transformer calls them, with the attention between the halves left out."""
    from minillm.backends.numba_ import add_feed_forward, add_linear, attention_inputs, linear

    c = model.config
    ones, angles = np.ones(c.d_model, np.float32), np.zeros((len(x), c.d_head // 2), np.float32)
    names = SimpleNamespace(attn_norm=ones, ffn_norm=ones, q_bias=None, k_bias=None, v_bias=None, q_norm=None, k_norm=None)
    layers = [SimpleNamespace(**vars(names), **{n: packed for n, (_, packed) in layer.items()}) for layer in model.layers]

    def work() -> None:
        for w in layers:
            q, _, _ = attention_inputs(x, w, c, angles, angles)
            y = add_linear(x, q.reshape(len(x), -1), w.o)
            add_feed_forward(y, w, c)
        linear(x, model.head[1])

    return work


def many_tokens(  # -> {"tokens", "packed_s", "dequantized_s", "crossover"}
    model: Model, tokens: Sequence[int] = TOKENS, runs: int = 2
) -> dict[str, Any]:
    """Multiply n tokens with all layers' matrices in both ways: packed (linear.py) and through float32 (steps.dequantized)."""
    from minillm.backends.numba_.linear import linear
    from minillm.backends.numba_.steps import dequantized

    matrices = [packed for layer in model.layers for _, packed in layer.values()]

    def seconds(product: Callable, n: int) -> float:
        x = {m.shape[1]: np.ones((n, m.shape[1]), np.float32) for m in matrices}

        def work() -> Any:
            for m in matrices:
                product(x[m.shape[1]], m)

        return best_of(work, runs if n < 100 else 1)

    return compared(tokens, lambda n: seconds(linear, n), lambda n: seconds(dequantized, n), "packed_s", "dequantized_s")


def compared(
    tokens: Sequence[int], a: Callable[[int], float], b: Callable[[int], float], a_name: str, b_name: str
) -> dict[str, Any]:
    """Time two ways at each number of tokens, and find where the second begins to win."""
    from minillm.backends.numba_.crossover import crossover

    times = [(a(n), b(n)) for n in tokens]
    a_times, b_times = [t[0] for t in times], [t[1] for t in times]
    return {"tokens": list(tokens), a_name: a_times, b_name: b_times, "crossover": crossover(list(tokens), a_times, b_times)}


def few_rows(d: int = 64, keys: int = 1024, runs: int = 20) -> dict[str, Any]:
    """Attend for a few queries of one head: keys read where they lie (decode.py), or transposed first (prefill.py)."""
    from minillm.backends.numba_.attention import by_splits, by_tiles
    from minillm.backends.numba_.decode import split_keys
    from minillm.backends.numba_.pages import EVERYTHING, MaskRule, one_block

    k = np.ones((keys, 1, d), np.float32)

    def seconds(way: Callable, n: int) -> float:
        q = np.ones((n, 1, d), np.float32)
        return best_of(lambda: way(q, k), runs)

    def splits(q: Any, k: Any) -> Any:
        return by_splits(q, k[None], k[None], one_block(keys), rule(q), (0, keys, split_keys(keys)))

    def tiles(q: Any, k: Any) -> Any:
        return by_tiles(q, k[None], k[None], one_block(keys), rule(q))

    def rule(q: Any) -> Any:  # causal, and the last query stands at the last key
        return MaskRule(keys - len(q), EVERYTHING, True)

    return compared(FEW, lambda n: seconds(splits, n), lambda n: seconds(tiles, n), "in_place_s", "turned_s")


def serial(columns: int = 1536, runs: int = 50) -> dict[str, Any]:
    """Round n tokens: by one core, or shared out, which begins with a parallel region."""
    from minillm.backends.numba_.bands import operand
    from minillm.backends.numba_.steps import round_by_all, round_by_one

    def seconds(way: Callable, n: int) -> float:
        h = operand(np.ones((n, columns), np.float32))
        return best_of(lambda: way(h), runs)

    return compared(FEW, lambda n: seconds(round_by_one, n), lambda n: seconds(round_by_all, n), "one_core_s", "shared_s")


def run(name: str, config: ModelConfig, runs: int = 3) -> dict[str, Any]:
    """Run all of it, on random weights in the shape of a model."""
    from minillm.backends.numba_.team import threads

    machine, model = measure_machine(), random_weights(config)
    result = {
        "model": name, "weights": model.weights, "bytes": model.nbytes, "machine": machine.json(),
        "ladder": ladder(model, machine, runs), "many_tokens": many_tokens(model), "serial": serial(), "few_rows": few_rows(),
    }  # fmt: skip
    return result | {"threads": threads()}


def table(result: dict[str, Any]) -> str:
    weights = result["weights"]
    lines = [
        f"{result['model']}, {weights / 1e6:,.0f} million weights in Q4_1, {result['bytes'] / 1e6:,.0f} MB; {result['threads']} "
        f"threads; memory {result['machine']['read_bytes_per_s'] / 1e9:,.1f} GB/s",
        "",
    ]
    rows = [
        [r["step"], f"{r['weights_per_s'] / 1e9:.1f}", f"{r['bytes_per_s'] / 1e9:.1f}", f"{r['tokens_per_s']:,.1f}",
         f"{r['share_of_bandwidth']:.0%}"]
        for r in result["ladder"]
    ]  # fmt: skip
    lines.append(terminal.table(["one token, all matrices", "Gweights/s", "GB/s", "tokens/s", "of bandwidth"], rows))
    titles = {
        "many_tokens": ("n tokens, all layers", "packed_s", "dequantized_s"),
        "serial": ("rounding n tokens", "one_core_s", "shared_s"),
        "few_rows": ("attention, n queries of a head", "in_place_s", "turned_s"),
    }
    for key, (title, a, b) in titles.items():
        part = result[key]
        times = zip(part["tokens"], part[a], part[b], strict=True)
        rows = [[f"{n:,}", f"{1e3 * s:,.4f}", f"{1e3 * t:,.4f}"] for n, s, t in times]
        lines += ["", terminal.table([title, *(f"{name.removesuffix('_s')} ms" for name in (a, b))], rows)]
        found = part["crossover"]
        lines.append(f"the second wins from {found} on" if found else "the second does not win at the largest size")
    return "\n".join(lines)
