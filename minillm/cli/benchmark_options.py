"""What the benchmarks of `minillm bench` have in common: options that take counts, options for peers, lists of numbers."""

import sys
from argparse import _ActionsContainer

from minillm.cli.arguments import Parser
from minillm.errors import MiniLLMError

COUNTS = {
    "prompt_tokens": "tokens of each prompt",
    "new_tokens": "tokens decoded after it",
    "batch": "sequences at once",
    "rounds": "how often they take turns",
    "requests": "requests, or prompts",
    "heads": "query heads",
    "d_head": "components of a head",
}


def add_counts(parser: Parser, **defaults: int) -> None:  # name=default
    """Add options that take a whole number from 1 up."""
    for name, default in defaults.items():
        option, says = "--" + name.replace("_", "-"), f"{COUNTS[name]} (default: %(default)s)"
        parser.add_argument(option, type=int, default=default, metavar="N", help=says)


def add_peers(parser: _ActionsContainer, which: str, by_name: bool = False) -> None:
    """Add --peers, and where to find them. by_name: it may say which; None then means that it was not given, "" all."""
    if by_name:
        says = f"also measure {which}, where installed; or only these, which must be: --peers openvino,vllm"
        parser.add_argument("--peers", nargs="?", const="", metavar="NAME,NAME", help=says)
    else:
        parser.add_argument("--peers", action="store_true", help=f"also measure {which}, where installed")
    where = "folder of a virtual environment, or its python, that holds peers; may be repeated (also: MINILLM_PEERS, as in PATH)"
    parser.add_argument("--peer-python", action="append", default=[], metavar="PATH", help=where)


def absent(packages: str) -> None:
    """Warn where --peers has none, and measure ourselves only."""
    print(f"minillm: no peer is installed, so there is none beside us; pip install {packages}", file=sys.stderr)


def numbers(option: str, text: str) -> list[int]:  # "1,4,8" -> [1, 4, 8]
    try:
        found = [int(n) for n in text.split(",")]
    except ValueError:
        raise MiniLLMError(f"{option} takes whole numbers with commas between, found {text!r}.") from None
    if min(found) < 1:
        raise MiniLLMError(f"{option} must be at least 1, found {min(found)}.")
    return found
