"""`minillm bench`: how fast, beside how fast it could be, and beside others in the same run.

Each benchmark measures one thing, and takes its own options alone (benchmarks.py); without a name it is the model.
"""

from argparse import Namespace

from minillm.cli.arguments import Parser
from minillm.cli.benchmarks import CHOICES
from minillm.cli.common import beside_json, print_json, share_now, tell_share
from minillm.errors import MiniLLMError

HELP = "measure prefill and decode speed, or one part alone; --peers adds llama.cpp, OpenVINO, vLLM and others where installed"


def configure(parser: Parser) -> None:
    parser.default = "model"
    parser.epilog = "Without NAME, options are those of the model: minillm bench --batch 8."
    names = parser.add_subparsers(dest="what", metavar="NAME", required=True)
    for name, (about, add_options, _) in CHOICES.items():
        sub = names.add_parser(name, help=about, description=about)
        add_options(sub)
        sub.add_argument("--json", action="store_true", help="print one JSON object; the table goes to standard error")


def run(args: Namespace) -> int:
    from minillm.bench import benchmark

    refuse_below_1(args)
    if paths := getattr(args, "peer_python", None):
        from minillm.bench.peers.environments import add_environments

        add_environments(paths)
    module, before = benchmark(args.what), share_now()
    _, _, measure = CHOICES[args.what]
    result = measure(args, module)
    result["cpu_share"] = tell_share(before)
    print(module.table(result), file=beside_json(args))
    if args.json:
        print_json(result)
    return 0


def refuse_below_1(args: Namespace) -> None:
    """All whole numbers here are counts."""
    for name, value in vars(args).items():
        if isinstance(value, int) and not isinstance(value, bool) and value < 1:
            raise MiniLLMError(f"--{name.replace('_', '-')} must be at least 1, found {value}.")
