"""What prompt caching costs and saves: a premium to write, a discount to read, and how soon that pays.

    scheme              write    read     pays after            price of a token, as a multiple of plain input
    kept 5 minutes      1.25 ×   0.1 ×    0.28 reuses           (write − 1) / (1 − read)
    kept 1 hour         2 ×      0.1 ×    1.11 reuses

So a five-minute entry pays with its first reuse, and one that is kept for an hour with its second. Without reuse it is
a loss: a breakpoint after what differs in every call costs a quarter more and saves nothing.

Anthropic's price page, multipliers as transcribed in 2026; OpenAI and Google then also sold cached reads at about 0.1 ×.
Prices change: look before you calculate.
"""

from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

from minillm.errors import MiniLLMError


@dataclass(frozen=True, slots=True)
class Scheme:
    """A way in which prompt caching is billed: how long an entry lives after each use, and two multiples of the input price."""

    ttl_s: float
    write: float
    read: float


FIVE_MINUTES = Scheme(ttl_s=300, write=1.25, read=0.1)
ONE_HOUR = Scheme(ttl_s=3600, write=2.0, read=0.1)


@dataclass(frozen=True, slots=True)
class Prices:
    """Money per million tokens of input and of output; write and read are multiples of the input price."""

    input: float
    output: float
    write: float = FIVE_MINUTES.write
    read: float = FIVE_MINUTES.read

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not (isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise MiniLLMError(f"prices are finite and 0 or more, found {name} = {getattr(self, name)}.")

    @classmethod
    def from_scheme(cls, input: float, output: float, scheme: Scheme) -> "Prices":
        return cls(input, output, scheme.write, scheme.read)

    def cost(self, usage: Any) -> float:  # Usage -> money
        """Compute the bill of one call, or of the sum of many."""
        prompt = usage.input_tokens + self.write * usage.cache_write_tokens + self.read * usage.cache_read_tokens
        return (self.input * prompt + self.output * usage.output_tokens) / 1e6

    def cost_without_cache(self, usage: Any) -> float:  # Usage -> money
        """Compute the bill of the same tokens, all at the plain input price."""
        prompt = usage.input_tokens + usage.cache_write_tokens + usage.cache_read_tokens
        return (self.input * prompt + self.output * usage.output_tokens) / 1e6


def break_even_reuses(write: float, read: float) -> float:  # two multiples of the input price -> reuses
    """Compute the reuses after which caching has paid: write + n · read = 1 + n. Infinite where a read costs as much as input."""
    if write < 0 or read < 0:
        raise MiniLLMError(f"write and read are multiples of the input price, 0 or more: found {write} and {read}.")
    if write <= 1:
        return 0.0
    return (write - 1) / (1 - read) if read < 1 else inf


def reusable(tokens: int, shared: int, block_size: int = 16) -> int:  # -> tokens
    """Count the reusable tokens of a prompt whose first `shared` tokens were seen: those in full blocks, never the last token."""
    return min(shared, tokens - 1) // block_size * block_size


def cached_price(uses: int, write: float, read: float) -> float:  # -> units of a plain input token
    """Compute the mean price of a prefix token that is written once and then read uses - 1 times."""
    return (write + (uses - 1) * read) / uses
