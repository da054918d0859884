"""What speculative decoding can bring: tokens of one check of γ drafts, and the speed-up at what a draft costs.

    E = (1 − α^(γ+1)) / (1 − α)        speed-up = E / (γ c + v)        c: a draft, v: the check, in decode steps of the target

The paper has v = 1: weights are read once, however many tokens are checked. Leviathan et al. 2023, arXiv:2211.17192.
"""


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
