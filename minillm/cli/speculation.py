"""The options that make a model guess ahead: --speculate and --draft-tokens."""

from argparse import Namespace, _ActionsContainer
from typing import TYPE_CHECKING, Any

from minillm.errors import MiniLLMError

if TYPE_CHECKING:
    from minillm.llm import LLM

SPECULATE_HELP = "guess ahead: ngram, suffix, draft:MODEL, self, eagle (default: not); the text stays what it is without"


def add_speculate_options(parser: _ActionsContainer) -> None:
    parser.add_argument("--speculate", metavar="P", help=SPECULATE_HELP)
    parser.add_argument("--draft-tokens", type=int, metavar="N", help="so many ahead (default: as many as pay, as measured)")


def check_speculate(args: Namespace) -> None:
    """Refuse what cannot be meant, before a model is loaded."""
    if args.draft_tokens is not None and args.speculate is None:
        raise MiniLLMError("--draft-tokens says how far --speculate guesses: give both, such as --speculate ngram.")
    if args.draft_tokens is not None and args.draft_tokens < 1:
        raise MiniLLMError(f"--draft-tokens must be at least 1, found {args.draft_tokens}.")


def speculation(args: Namespace, llm: "LLM") -> dict[str, Any]:  # -> arguments of Engine
    """Make what the options ask for: nothing where they ask for nothing."""
    from minillm.speculative.proposers import make_proposer

    if not args.speculate:
        return {}
    return {"proposer": make_proposer(args.speculate, llm.transformer, llm.tokenizer), "gamma": args.draft_tokens}
