"""What a card may compute with: the cost formulas, the published shapes, and arithmetic over them.

    kv_tokens('llama-3-8b', memory=24e9)        decode_ceiling('llama-3-8b', bandwidth=3.35e12)
    model('llama-2-7b').kv_bytes_per_token() / model('llama-3-8b').kv_bytes_per_token()

Formulas live in minillm/costs; here a model may be named by its preset in place of its config. `evaluate` walks the syntax
tree and knows numbers, texts, arithmetic, the functions of NAMES, and the fields and formulas of a ModelConfig. It never
calls Python's own `eval`: an expression comes from a file, and a file is not to be trusted.
"""

import ast
import math
import operator
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import Any

from minillm.costs import attention, memory, prices, speculation, time
from minillm.errors import MiniLLMError, did_you_mean
from minillm.model.config import ModelConfig
from minillm.model.presets import preset


class FormulaError(MiniLLMError):
    """An expression that cannot be evaluated."""


def model(name: str | ModelConfig) -> ModelConfig:  # preset's name or ModelConfig -> ModelConfig
    """Get the shape of a published model; what it costs are its methods."""
    return name if isinstance(name, ModelConfig) else preset(name)


def named(formula: Callable) -> Callable:  # f(config, …) -> f(config or name of a preset, …)
    """Wrap a formula so that it also takes a preset's name where it wants a ModelConfig."""

    @wraps(formula)
    def by_name(name: str, *args: Any, **options: Any) -> Any:
        return formula(model(name), *args, **options)

    return by_name


def lora_parameters(name: str, rank: int, matrices: str = "attn_q attn_v") -> int:  # -> numbers to learn
    """Count the parameters of adapters on these matrices of every layer: r (d_in + d_out) each. Hu 2021, arXiv:2106.09685."""
    from minillm.model.lora import adapter_parameters

    return adapter_parameters(model(name), rank, matrices.split())


def training_memory(  # -> bytes, at the worst moment of a step
    name: str, batch: int, length: int, method: str = "full", rank: int = 8
) -> int:
    """Ours, in float32, with activations; method: full, lora (q and v) or qlora. training/memory.py says what is counted."""
    from minillm.training.memory import step_memory

    return step_memory(model(name), batch, length, method, rank=rank).total


def type_bits(name: str) -> float:  # 'Q4_K' -> bits a weight
    """Bits per weight of a block type, scales counted. FormulaError for a type that is not there."""
    from minillm.formats.blocks import BLOCK_TYPES

    if name not in BLOCK_TYPES:
        raise FormulaError(f"no type is called {name[:40]!r}; {did_you_mean(name, BLOCK_TYPES)}")
    return BLOCK_TYPES[name].bits_per_weight


def mix_bits(name: str, mix: str) -> float:  # 'q4_k_m' -> bits a weight, over the whole model
    """Bits per weight of a model in one of llama.cpp's mixes: matrices by their role, vectors in float32."""
    from minillm.formats import mixes
    from minillm.model.random_model import tensor_shapes

    config, chosen, bits = model(name), mixes.mix_named(mix), 0
    for tensor, shape in tensor_shapes(config).items():
        site = mixes.Site(mixes.layer_of(tensor), config.n_layers, config.n_heads // config.n_kv_heads, 0, False)
        wanted = mixes.type_at(tensor, site, chosen, config.tied, False) if len(shape) > 1 else "F32"
        bits += 8 * mixes.fitting(wanted, shape[-1]).nbytes(shape)
    return bits / config.parameters()


FORMULAS = (
    model, lora_parameters, training_memory, type_bits, mix_bits, math.log, min, max,
    memory.training_bytes, memory.kv_tokens, memory.kv_bits, memory.kv_token_bytes, memory.nf4_bits,
    memory.grid_bits, memory.affordable_bits,
    memory.blocks_for, memory.paged_waste, memory.reserved_waste,
    memory.forked_blocks, memory.collision_probability,
    time.prefill_time, time.decode_time, time.decode_ceiling, time.ridge_intensity, time.ridge_batch, time.roofline,
    time.generation_flops, time.blocked_traffic, time.step_time, time.largest_chunk, time.swap_time, time.static_slots,
    time.queue_wait,
    attention.attention_scores_bytes, attention.attention_flops, attention.standard_traffic, attention.flash1_traffic,
    attention.flash2_traffic, attention.rescale,
    prices.break_even_reuses, prices.reusable, prices.cached_price,
    speculation.expected_tokens, speculation.speculative_speedup, speculation.best_gamma, speculation.check_cost,
    speculation.crossover_batch,
)  # fmt: skip
OF_A_MODEL = [f for f in FORMULAS if hasattr(f, "__code__") and f.__code__.co_varnames[0] == "config"]
NAMES = {f.__name__: named(f) if f in OF_A_MODEL else f for f in FORMULAS} | {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
COSTS = (
    "matrix_parameters", "parameters", "weight_bytes", "kv_bytes_per_token", "decode_flops", "prefill_flops",
    "product_flops", "prefill_attention_flops", "training_flops", "decode_bytes",
)  # fmt: skip
ATTRIBUTES = {f.name for f in fields(ModelConfig)} | set(COSTS)
OPERATORS: dict[type, Any] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: lambda a, b: float(a) ** b,  # 9**9**9 overflows at once
    ast.USub: operator.neg, ast.UAdd: operator.pos,
}  # fmt: skip


def evaluate(expression: str) -> float:
    """Evaluate an expression; FormulaError, which quotes it, for any error in it."""
    try:
        value = value_of(ast.parse(expression.strip(), mode="eval").body)
    except MiniLLMError as error:
        raise FormulaError(f"{expression!r}: {error}") from None
    except SyntaxError as error:
        raise FormulaError(f"{expression!r}: not an expression: {error.msg}.") from None
    except (TypeError, ValueError, ArithmeticError, RecursionError, MemoryError) as error:
        raise FormulaError(f"{expression!r}: {error}.") from None
    if isinstance(value, (bool, complex)) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise FormulaError(f"{expression!r}: must give a finite number, gave {str(value)[:60]}.")
    return value


def value_of(node: ast.AST) -> Any:
    """Evaluate one node of the tree. Kinds of nodes that are not listed here are refused."""
    match node:
        case ast.Constant(value=int() | float() | str() as value):
            return value
        case ast.Name(id=name) if name in NAMES:
            return NAMES[name]
        case ast.Name(id=name):
            raise FormulaError(f"no formula is called {name!r}; {did_you_mean(name, NAMES)}")
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](*map(number, (left, right)))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in OPERATORS:
            return OPERATORS[type(op)](number(operand))
        case ast.Attribute(value=owner, attr=name):
            if not isinstance(owner := value_of(owner), ModelConfig) or name not in ATTRIBUTES:
                raise FormulaError(f"{name!r} is no formula of a model; {did_you_mean(name, COSTS)}")
            return getattr(owner, name)
        case ast.Call(func=function, args=args, keywords=keywords) if all(k.arg for k in keywords):
            return value_of(function)(*map(value_of, args), **{str(k.arg): value_of(k.value) for k in keywords})
    raise FormulaError(f"{ast.unparse(node)[:60]} is not allowed: only numbers, arithmetic and the formulas are.")


def number(node: ast.AST) -> Any:
    """Check a value to calculate with: 'a' * 10**9 would be a long text."""
    value = value_of(node)
    if not isinstance(value, (int, float)):
        raise FormulaError(f"{ast.unparse(node)[:60]} is no number.")
    return value
