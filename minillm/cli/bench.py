"""`minillm bench`: how fast, beside how fast it could be, and beside others in the same run.

`minillm bench paging` and `minillm bench prefix` replay a trace instead: memory wasted, and prefix hits;
`minillm bench blocks` measures the bookkeeping of blocks.
"""

from minillm.cli.common import add_model_options, model_path, print_json

HELP = "measure prefill and decode speed; --peers adds llama.cpp and transformers where they are installed"


def configure(parser):
    kinds = ["model", "paging", "prefix", "blocks"]
    parser.add_argument("what", nargs="?", choices=kinds, default="model", help="default: %(default)s")
    add_model_options(parser)
    parser.add_argument("--prompt-tokens", type=int, default=512, metavar="N", help="default: %(default)s")
    parser.add_argument("--new-tokens", type=int, default=32, metavar="N", help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="sequences at once (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="alternations (default: %(default)s)")
    parser.add_argument("--peers", action="store_true", help="also measure llama.cpp (llama-cpp-python) and transformers")
    parser.add_argument("--trace", metavar="FILE", help="paging: Azure's CSV; prefix: Mooncake's JSONL (default: a profile)")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")


def run(args):
    return run_model(args) if args.what == "model" else run_replay(args)


def run_replay(args):
    from minillm.bench import blocks, replay

    result = blocks.run() if args.what == "blocks" else replay.run(args.what, args.trace)
    print((blocks if args.what == "blocks" else replay).table(result))
    if args.json:
        print_json(result)
    return 0


def run_model(args):
    import sys

    path = model_path(args)
    from minillm.bench.compare import compare, installed, say
    from minillm.bench.machine import measure_machine
    from minillm.bench.report import table
    from minillm.model.load import read_config

    config = read_config(path)
    say("measuring the machine's ceilings")
    machine = measure_machine()
    peers = [name for name in ("llama.cpp", "transformers") if installed(name)] if args.peers else []
    if args.peers and not peers:
        print("no peer is installed: pip install llama-cpp-python, or torch transformers gguf accelerate", file=sys.stderr)
    result = compare(
        path,
        config,
        machine,
        ["minillm", *peers],
        args.prompt_tokens,
        args.new_tokens,
        args.batch,
        args.rounds,
        args.threads or machine.cores,
        args.backend,
    )
    say("")
    print(table(result))
    if args.json:
        print_json(result)
    return 0
