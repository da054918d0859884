"""What speculative decoding can bring: tokens of one check of γ drafts, and the speed-up at what a draft costs.

    α = 1 − TV(p, q)                   a draft from q is kept, where the target says p
    E = (1 − α^(γ+1)) / (1 − α)        tokens of a check of γ drafts
    speed-up = E / (γ c + v)           c: a draft, v: the check, in decode steps of the target

The paper has v = 1: weights are read once, however many tokens are checked. That holds while memory is the limit. A batch of B
texts checks B (γ + 1) tokens a step, so beyond the ridge of the roofline each costs its arithmetic, and guessing ahead is a loss:
`check_cost` says what v is there. Leviathan et al. 2023, arXiv:2211.17192.
"""

from typing import Any

from minillm.costs.time import step_time


def acceptance_rate(p: Any, q: Any) -> float:  # two lists or arrays of probabilities -> 0 … 1
    """Compute the chance that a draft from q is kept by a target that says p: Σ min(p, q) = 1 - TV(p, q)."""
    return float(sum(min(a, b) for a, b in zip(p, q, strict=True)))


def expected_tokens(alpha: float, gamma: int) -> float:  # -> tokens
    """Compute the expected tokens from one check of `gamma` drafts with acceptance rate α: (1 - α^(γ+1)) / (1 - α)."""
    return sum(alpha**i for i in range(int(gamma) + 1))  # the same, and right for α = 1


def speed_up(  # tokens of one check, drafts, a draft's and the check's cost -> times
    tokens: float, gamma: int, cost: float, check: float = 1
) -> float:
    """Compute the speed-up over plain decoding. cost, check: c and v, in decode steps of the target."""
    return tokens / (gamma * cost + check)


def speculative_speedup(alpha: float, gamma: int, cost: float, check: float = 1) -> float:  # -> times
    """Compute the speed-up where each draft is accepted with probability alpha."""
    return speed_up(expected_tokens(alpha, gamma), gamma, cost, check)


def best_gamma(alpha: float, cost: float, extra: float = 0, most: int = 64) -> int:  # -> drafts, 0: none pays
    """Find the number of drafts that brings the largest speed-up. extra: what a token more adds to a check: v = 1 + γ extra."""
    return max(range(most + 1), key=lambda gamma: (speculative_speedup(alpha, gamma, cost, 1 + gamma * extra), -gamma))


def check_cost(  # -> decode steps
    config: Any, flops: float, bandwidth: float, gamma: int, batch: int = 1, context: int = 0, bits: float = 16,
    kv_bits: float = 16,
) -> float:
    """Compute v by the roofline: a step of batch × (γ + 1) tokens over a step of `batch`, both at the ceiling of a machine.

    Each text's cache is read once in either, for its γ + 1 queries see the same keys.
    """
    plain = step_time(config, flops, bandwidth, batch, context, bits=bits, kv_bits=kv_bits)
    few, many = (step_time(config, flops, bandwidth, tokens, bits=bits) for tokens in (batch, batch * (gamma + 1)))
    return (plain + many - few) / plain


def crossover_batch(  # -> texts at a time
    config: Any, flops: float, bandwidth: float, alpha: float, gamma: int, cost: float = 0, context: int = 0, bits: float = 16,
    kv_bits: float = 16, most: int = 4096
) -> int:
    """Find the smallest batch at which `gamma` drafts each are a loss by the roofline; most + 1 where there is none so small.

    The gain falls as the batch grows, until the step is all arithmetic: so the search halves.
    """
    low, high = 1, most + 1
    while low < high:
        batch = (low + high) // 2
        check = check_cost(config, flops, bandwidth, gamma, batch, context, bits, kv_bits)
        if speculative_speedup(alpha, gamma, cost, check) < 1:
            high = batch
        else:
            low = batch + 1
    return low
