"""The options of `minillm bench speculation`."""

from argparse import Namespace
from types import ModuleType

from minillm.cli.arguments import Parser
from minillm.cli.benchmark_options import numbers
from minillm.cli.common import add_kv_option, add_model_options, load
from minillm.errors import MiniLLMError


def add_speculation(parser: Parser) -> None:
    """Add what to measure: proposers, fixed numbers of drafts, batches."""
    add_model_options(parser, "smollm2-135m")
    add_kv_option(parser)
    names = "ngram, suffix, draft:MODEL, self, eagle"
    parser.add_argument("--proposers", default="ngram,suffix,eagle", metavar="P,P", help=f"{names} (default: %(default)s)")
    parser.add_argument("--gammas", default="2,4", metavar="N,N", help="fixed numbers of drafts beside adaptive ones, or none")
    parser.add_argument("--batches", default="1", metavar="N,N", help="requests at a time (default: %(default)s)")
    parser.add_argument("--workloads", metavar="W,W", help="texts: stories, copying (default: both)")
    parser.add_argument("--new-tokens", type=int, default=96, metavar="N", help="of each answer (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often they take turns (default: %(default)s)")


def run_speculation(args: Namespace, module: ModuleType) -> dict:
    """Run the benchmark."""
    gammas = [] if args.gammas == "none" else numbers("--gammas", args.gammas)
    proposers = [name for name in args.proposers.split(",") if name]
    if not proposers:
        raise MiniLLMError("--proposers names none: there is nothing to compare.")
    workloads = module.WORKLOADS if args.workloads is None else args.workloads.split(",")
    return module.run(load(args), proposers, gammas, numbers("--batches", args.batches), args.new_tokens, args.rounds, workloads)
