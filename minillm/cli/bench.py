"""`minillm bench`: how fast, beside how fast it could be, and beside others in the same run.

    minillm bench              a model: prefill and decode, beside their ceilings
    minillm bench attention    attention alone, over the number of tokens
    minillm bench ttft         time to first token, by the share of the prompt whose keys and values are kept already
    minillm bench paging       a trace of requests replayed: memory wasted by ways of allocating it
    minillm bench prefix       a trace of requests replayed: prefix hits by policy and capacity
    minillm bench blocks       the bookkeeping of blocks, operations a second
    minillm bench kernels      products with packed weights: from the naive loop to the last kernel, and the crossovers
"""

from minillm.cli.common import add_model_options, model_path, print_json
from minillm.errors import MiniLLMError

HELP = "measure prefill and decode speed, or attention alone; --peers adds llama.cpp, transformers, torch where installed"


def configure(parser):
    kinds = ["model", "attention", "ttft", "paging", "prefix", "blocks", "kernels"]
    parser.add_argument("what", nargs="?", choices=kinds, default="model", help="default: %(default)s")
    add_model_options(parser)
    parser.add_argument("--prompt-tokens", type=int, default=512, metavar="N", help="default: %(default)s")
    parser.add_argument("--new-tokens", type=int, default=32, metavar="N", help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="sequences at once (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="alternations (default: %(default)s)")
    parser.add_argument("--peers", action="store_true", help="also measure llama.cpp and transformers; for attention: torch")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    parser.add_argument("--trace", metavar="FILE", help="paging: Azure's CSV; prefix: Mooncake's JSONL (default: a profile)")
    alone = parser.add_argument_group("attention alone")
    alone.add_argument("--tokens", default="512,2048,8192", metavar="N,N", help="sizes (default: %(default)s)")
    alone.add_argument("--heads", type=int, default=9, metavar="N", help="query heads (default: %(default)s)")
    alone.add_argument("--kv-heads", type=int, metavar="N", help="key and value heads (default: as many)")
    alone.add_argument("--d-head", type=int, default=64, metavar="N", help="components of a head (default: %(default)s)")


def run(args):
    ways = {"model": run_model, "attention": run_attention, "ttft": run_ttft}
    return ways.get(args.what, run_replay)(args)


def run_ttft(args):
    from minillm.bench.prefix import run, table
    from minillm.llm import LLM

    return show(args, run(LLM(model_path(args), args.backend)), table)


def run_replay(args):
    from minillm.bench import blocks, kernels, replay

    if args.what in ("blocks", "kernels"):
        bench = {"blocks": blocks, "kernels": kernels}[args.what]
        return show(args, bench.run(), bench.table)
    return show(args, replay.run(args.what, args.trace), replay.table)


def show(args, result, table):
    """The table to read, and with --json the result on the last line."""
    print(table(result))
    if args.json:
        print_json(result)
    return 0


def run_attention(args):
    import importlib.util
    import sys

    from minillm.bench.attention import bench_attention, table
    from minillm.bench.machine import available_cores, measure_machine

    try:
        tokens = [int(n) for n in args.tokens.split(",")]
    except ValueError:
        raise MiniLLMError(f"--tokens takes whole numbers with commas between, found {args.tokens!r}.") from None
    peers = args.peers and importlib.util.find_spec("torch") is not None
    if args.peers and not peers:
        print("torch is not installed: pip install torch", file=sys.stderr)
    threads = args.threads or available_cores()
    kv_heads = args.heads if args.kv_heads is None else args.kv_heads
    result = bench_attention(tokens, args.heads, kv_heads, args.d_head, args.rounds, threads, peers, measure_machine)
    print(table(result))
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
