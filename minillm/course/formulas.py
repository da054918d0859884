"""What a card may compute with: the cost formulas of ModelConfig, the published shapes, and a few lines over them.

    kv_tokens('llama-3-8b', memory=24e9)        decode_ceiling('llama-3-8b', bandwidth=3.35e12)
    model('llama-2-7b').kv_bytes_per_token() / model('llama-3-8b').kv_bytes_per_token()

`evaluate` walks the syntax tree and knows numbers, texts, arithmetic, the functions of NAMES, and the fields and formulas
of a ModelConfig. It never calls Python's own `eval`: an expression comes from a file, and a file is not to be trusted.
"""

import ast
import math
import operator
from dataclasses import fields

from minillm.errors import MiniLLMError
from minillm.model.config import ModelConfig
from minillm.model.presets import preset
from minillm.prices import break_even_reuses  # noqa: F401 (cards call it by this name)


class FormulaError(MiniLLMError):
    """An expression that cannot be evaluated."""


def model(name):  # preset's name or ModelConfig -> ModelConfig
    """The shape of a published model; what it costs are its methods."""
    return name if isinstance(name, ModelConfig) else preset(name)


# --- memory -----------------------------------------------------------------------------------------------------------


def kv_tokens(name, memory, utilization=0.9, weight_bits=16, kv_bits=16):  # -> tokens
    """Tokens of KV cache that fit beside the weights in `memory` bytes, of which a share may be used."""
    c = model(name)
    return max(0, (memory * utilization - c.weight_bytes(weight_bits)) // c.kv_bytes_per_token(kv_bits / 8))


def training_bytes(name, bytes_per_parameter=16):  # -> bytes
    """Weights, gradients and optimizer state, without activations.

    Mixed precision with Adam: 2 (weights) + 2 (gradients) + 4 + 4 + 4 (float32 weights and two moments) bytes a parameter.
    Rajbhandari et al. 2020, arXiv:1910.02054.
    """
    return model(name).parameters() * bytes_per_parameter


# --- time, where the machine runs at its ceiling ----------------------------------------------------------------------


def prefill_time(name, tokens, flops):  # -> seconds
    """Prefill of a prompt at `flops` FLOP/s: the least that TTFT can be."""
    return model(name).prefill_flops(tokens) / flops


def decode_time(name, bandwidth, bits=16, context=0, batch=1, kv_bits=16):  # -> seconds
    """One decode step at `bandwidth` bytes/s: every weight once, and the cache of every sequence. The least TPOT."""
    return model(name).decode_bytes(context, batch, bits, kv_bits / 8) / bandwidth


def decode_ceiling(name, bandwidth, bits=16, context=0, batch=1, kv_bits=16):  # -> tokens/s
    """Tokens a second over the whole batch, where bandwidth is the limit."""
    return batch / decode_time(name, bandwidth, bits, context, batch, kv_bits)


def ridge_intensity(flops, bandwidth):  # -> FLOP per byte
    """Where the roofline bends: with less arithmetic per byte, bandwidth is the limit."""
    return flops / bandwidth


def ridge_batch(flops, bandwidth, bytes_per_weight=2):  # -> tokens in one step
    """Tokens per step for which a product with the weights takes as long to compute as to read: 2·B/flops = bytes/bandwidth."""
    return ridge_intensity(flops, bandwidth) * bytes_per_weight / 2


# --- arithmetic -------------------------------------------------------------------------------------------------------


def generation_flops(name, prompt, new, cache=True):  # -> FLOPs
    """A prompt and `new` tokens after it: each step feeds one token with a KV cache, and the whole sequence without.

    The first new token comes from the prefill, so `new` tokens are a prefill and new - 1 steps.
    """
    c, lengths = model(name), range(prompt + 1, prompt + new)
    steps = (c.decode_flops(n) if cache else c.prefill_flops(n) for n in lengths)
    return c.prefill_flops(prompt) + sum(steps)


def roofline(intensity, flops, bandwidth):  # -> FLOP/s
    """The most that a kernel of so many FLOPs a byte can reach: Williams et al. 2009."""
    return min(flops, bandwidth * intensity)


def blocked_traffic(m, k, n, rows, columns):  # -> elements moved
    """A product (m, k) · (k, n) by tiles of C: A once for each column of tiles, B once for each row of tiles, C once."""
    return m * k * math.ceil(n / columns) + k * n * math.ceil(m / rows) + m * n


# --- attention by tiles, Dao et al. 2022, arXiv:2205.14135; Dao 2023, arXiv:2307.08691: one head, no mask --------------


def attention_scores_bytes(heads, n, bytes_per_value=2):  # -> bytes
    """The scores of `heads` heads over n tokens, written out: what standard attention holds and FlashAttention does not."""
    return heads * n * n * bytes_per_value


def attention_flops(n, d):  # -> FLOPs
    """Q Kᵀ and P V, 2 FLOPs for each of n · n · d products."""
    return 4 * n * n * d


def standard_traffic(n, d):  # -> elements moved
    """Q, K, V and O once; the scores and the weights written and read."""
    return 4 * n * d + 4 * n * n


def flash1_traffic(n, d, block_k):  # -> elements moved, without the statistics
    """K and V once; for each column tile Q and O come and O goes."""
    return 2 * n * d + 3 * n * d * math.ceil(n / block_k)


def flash2_traffic(n, d, block_q):  # -> elements moved, without the log-sum-exp
    """Q and O once; for each row tile K and V come."""
    return 2 * n * d + 2 * n * d * math.ceil(n / block_q)


def rescale(m, m_new):  # -> alpha
    """What online softmax shrinks its sums by when the maximum rises from m to m_new: exp(m - m_new)."""
    return math.exp(m - m_new)


# --- blocks, Kwon et al. 2023, arXiv:2309.06180 -------------------------------------------------------------------------


def blocks_for(tokens, block_size=16):  # -> blocks
    """Blocks that a sequence holds: the last one may be partly filled."""
    return math.ceil(tokens / block_size)


def paged_waste(tokens, block_size=16):  # -> share of the slots held
    """Of sequences of `tokens` tokens on average: the last block lacks (B - 1) / 2 of its B tokens."""
    empty = (block_size - 1) / 2
    return empty / (tokens + empty)


def reserved_waste(tokens, reserved):  # -> share of the slots held
    """Of sequences of `tokens` tokens on average, each given room for `reserved`."""
    return 1 - tokens / reserved


def forked_blocks(prompt, new, samples, block_size=16):  # -> blocks
    """Several answers to one prompt, copy-on-write: full blocks of the prompt once, the rest for each (new ≥ 1)."""
    shared = prompt // block_size
    return shared + samples * (blocks_for(prompt + new, block_size) - shared)


def swap_time(name, tokens, bandwidth, kv_bits=16):  # -> seconds
    """Moving the cache of `tokens` tokens over a link of `bandwidth` bytes/s, one way. Recomputing it is prefill_time."""
    return tokens * model(name).kv_bytes_per_token(kv_bits / 8) / bandwidth


# --- prompt caching -----------------------------------------------------------------------------------------------------


def reusable(tokens, shared, block_size=16):  # -> tokens
    """Of a prompt whose first `shared` tokens were seen: those in full blocks, and never the last token."""
    return min(shared, tokens - 1) // block_size * block_size


def collision_probability(names, bits):  # -> probability, at most
    """That two of so many random names of `bits` bits are equal: n (n - 1) / 2 pairs, each with 2^-bits."""
    return min(1.0, names * (names - 1) / 2 / 2.0**bits)


def cached_price(uses, write, read):  # -> units of a plain input token
    """Mean price of a prefix token that is written once and then read uses - 1 times."""
    return (write + (uses - 1) * read) / uses


# --- continuous batching ------------------------------------------------------------------------------------------------


def step_time(name, flops, bandwidth, batch=0, context=0, chunk=0, cached=0, bits=16, kv_bits=16):  # -> seconds
    """A step of `batch` decodes and a chunk of prompt after `cached` tokens: max(bytes, FLOPs), the least it can take."""
    c = model(name)
    moved = c.decode_bytes(context, batch, bits, kv_bits / 8) + cached * c.kv_bytes_per_token(kv_bits / 8)
    return max(moved / bandwidth, (batch * c.decode_flops(context) + c.prefill_flops(chunk, cached, int(chunk > 0))) / flops)


def static_slots(batch):  # -> slots held for each token drawn
    """E[max] / E[mean] of so many answers with exponential lengths: 1 + 1/2 + … + 1/batch."""
    return sum(1 / i for i in range(1, int(batch) + 1))


def queue_wait(load, service, cv=1):  # -> seconds, in units of `service`
    """Mean wait in a queue for one server, Poisson arrivals: Pollaczek-Khinchine. load: share of the time it is busy, below 1."""
    return load / (1 - load) * (1 + cv**2) / 2 * service


# --- speculative decoding, Leviathan et al. 2023, arXiv:2211.17192 ------------------------------------------------------


def expected_tokens(alpha, gamma):  # -> tokens
    """Tokens that one check of `gamma` drafts yields, each accepted with probability alpha: (1 - α^(γ+1)) / (1 - α)."""
    return sum(alpha**i for i in range(int(gamma) + 1))  # the same, and right for α = 1


def speculative_speedup(alpha, gamma, cost):  # -> times
    """Against plain decoding, where one draft costs `cost` of a step of the target: E / (γ·c + 1)."""
    return expected_tokens(alpha, gamma) / (gamma * cost + 1)


# --- fine-tuning --------------------------------------------------------------------------------------------------------


def lora_parameters(name, rank, matrices="attn_q attn_v"):  # -> numbers to learn
    """Of adapters on these matrices of every layer: r (d_in + d_out) each. Hu et al. 2021, arXiv:2106.09685."""
    from minillm.training.lora import adapter_parameters

    return adapter_parameters(model(name), rank, matrices.split())


def nf4_bits(block=64, group=256):  # -> bits a weight
    """Of NF4 with double quantization: the code, a share of an 8-bit scale, a share of that one's float32."""
    return 4 + 8 / block + 32 / (block * group)


def training_memory(name, batch, length, method="full", rank=8):  # -> bytes, at the worst moment of a step
    """Ours, in float32, with activations; method: full, lora (q and v) or qlora. training/memory.py says what is counted."""
    from minillm.training.memory import step_memory

    return step_memory(model(name), batch, length, method, rank=rank).total


# --- evaluation -------------------------------------------------------------------------------------------------------

FORMULAS = (
    model, kv_tokens, training_bytes, prefill_time, decode_time, decode_ceiling, ridge_intensity, ridge_batch,
    generation_flops, roofline, blocked_traffic, attention_scores_bytes, attention_flops, standard_traffic, flash1_traffic,
    flash2_traffic, rescale, blocks_for, paged_waste, reserved_waste, forked_blocks, swap_time, reusable,
    collision_probability, break_even_reuses, cached_price, step_time, static_slots, queue_wait, expected_tokens,
    speculative_speedup, lora_parameters, nf4_bits, training_memory, math.log, min, max,
)  # fmt: skip
NAMES = {f.__name__: f for f in FORMULAS} | {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
COSTS = ("matrix_parameters", "parameters", "weight_bytes", "kv_bytes_per_token", "decode_flops", "prefill_flops")
COSTS += ("training_flops", "decode_bytes")
ATTRIBUTES = {f.name for f in fields(ModelConfig)} | set(COSTS)
OPERATORS = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: lambda a, b: float(a) ** b,  # 9**9**9 overflows at once
    ast.USub: operator.neg, ast.UAdd: operator.pos,
}  # fmt: skip


def evaluate(expression):  # text -> number
    """The value of an expression; FormulaError, which quotes it, for whatever is wrong with it."""
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


def value_of(node):
    """One node of the tree. What is not named here does not exist."""
    match node:
        case ast.Constant(value=int() | float() | str() as value):
            return value
        case ast.Name(id=name) if name in NAMES:
            return NAMES[name]
        case ast.Name(id=name):
            raise FormulaError(f"no formula is called {name!r}; there are: {', '.join(NAMES)}.")
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](*map(number, (left, right)))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in OPERATORS:
            return OPERATORS[type(op)](number(operand))
        case ast.Attribute(value=owner, attr=name):
            if not isinstance(owner := value_of(owner), ModelConfig) or name not in ATTRIBUTES:
                raise FormulaError(f"{name!r} is no formula of a model; there are: {', '.join(COSTS)}.")
            return getattr(owner, name)
        case ast.Call(func=function, args=args, keywords=keywords) if all(k.arg for k in keywords):
            return value_of(function)(*map(value_of, args), **{k.arg: value_of(k.value) for k in keywords})
    raise FormulaError(f"{ast.unparse(node)[:60]} is not allowed: only numbers, arithmetic and the formulas are.")


def number(node):
    """A value to calculate with: 'a' * 10**9 would be a long text."""
    value = value_of(node)
    if not isinstance(value, (int, float)):
        raise FormulaError(f"{ast.unparse(node)[:60]} is no number.")
    return value
