"""`minillm bench`: how fast, beside how fast it could be, and beside others in the same run.

    minillm bench              a model: prefill and decode, beside their ceilings; --batch 1,4,8,16,32: a table of sizes
    minillm bench attention    attention alone, over the number of tokens
    minillm bench ttft         time to first token, by the share of the prompt whose keys and values are kept already
    minillm bench paging       a trace of requests replayed: memory wasted by ways of allocating it
    minillm bench prefix       a trace of requests replayed: prefix hits by policy and capacity
    minillm bench blocks       the bookkeeping of blocks, operations a second
    minillm bench serving      the engine's cost beside the model's, and the cost of batch invariance
    minillm bench training     a training step; with --peers beside torch's
    minillm bench pair         perplexity of a model and of a draft for it on held-out text; how often drafts are accepted
    minillm bench kernels      products with packed weights: from the naive loop to the last kernel, and the crossovers
"""

from minillm.cli.common import add_kv_option, add_model_options, backend_for, kv_for, load, model_path, print_json
from minillm.errors import MiniLLMError

HELP = "measure prefill and decode speed, or attention alone; --peers adds llama.cpp, transformers, torch where installed"

PEERS_HELP = "also measure llama.cpp, with a single batch size transformers too; for attention: torch"



def configure(parser):
    kinds = ["model", "attention", "ttft", "paging", "prefix", "blocks", "serving", "kernels", "pair", "training"]
    parser.add_argument("what", nargs="?", choices=kinds, default="model", help="default: %(default)s")
    add_model_options(parser)
    parser.add_argument("--prompt-tokens", type=int, default=512, metavar="N", help="default: %(default)s")
    parser.add_argument("--new-tokens", type=int, default=32, metavar="N", help="default: %(default)s")
    parser.add_argument("--batch", default="1", metavar="N,N", help="sequences at once, one or several (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="alternations (default: %(default)s)")
    add_kv_option(parser)
    parser.add_argument("--peers", action="store_true", help=PEERS_HELP)
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    parser.add_argument("--trace", metavar="FILE", help="paging: Azure's CSV; prefix: Mooncake's JSONL (default: a profile)")
    couple = parser.add_argument_group("pair")
    couple.add_argument("--draft", default="tiny-draft", metavar="M", help="the model that proposes (default: %(default)s)")
    couple.add_argument("--corpus", metavar="FILE", help="documents with <|endoftext|> between them (default: our stories)")
    couple.add_argument("--held-out", type=float, default=0.03, metavar="P", help="share kept for judging (default: %(default)s)")
    alone = parser.add_argument_group("attention alone")
    alone.add_argument("--tokens", default="512,2048,8192", metavar="N,N", help="sizes (default: %(default)s)")
    alone.add_argument("--heads", type=int, default=9, metavar="N", help="query heads (default: %(default)s)")
    alone.add_argument("--kv-heads", type=int, metavar="N", help="key and value heads (default: as many)")
    alone.add_argument("--d-head", type=int, default=64, metavar="N", help="components of a head (default: %(default)s)")


def run(args):
    ways = {"model": run_model, "attention": run_attention, "ttft": run_ttft, "serving": run_serving}
    ways |= {"pair": run_pair, "training": run_training}
    return ways.get(args.what, run_replay)(args)


def run_ttft(args):
    from minillm.bench.prefix import run, table
    from minillm.llm import LLM

    path = model_path(args)
    return show(args, run(LLM(path, backend_for(args, path))), table)


def run_serving(args):
    from minillm.bench import serving

    return show(args, serving.run(load(args)), serving.table)


def run_pair(args):
    from minillm.bench import pair
    from minillm.llm import LLM
    from minillm.model import zoo
    from minillm.training.data import read_corpus, split

    corpus = args.corpus or zoo.embedded_folder().parent / "corpus" / "stories.txt.xz"
    _, held_out = split(read_corpus(corpus), "<|endoftext|>", args.held_out)
    if not held_out:
        raise MiniLLMError(f"{corpus}: no document is held out at a share of {args.held_out:g}; raise --held-out.")
    return show(args, pair.run(load(args), LLM(zoo.resolve(args.draft)), held_out), pair.table)


def run_training(args):
    import sys

    from minillm.bench import training_speed
    from minillm.bench.compare import installed, say

    peers = args.peers and installed("transformers")
    if args.peers and not peers:
        print("no peer is installed: pip install torch transformers gguf accelerate", file=sys.stderr)
    batches = numbers("--batch", args.batch)
    if len(batches) > 1 or min(*batches, args.prompt_tokens, args.rounds) < 1:
        raise MiniLLMError("training needs one batch size, tokens and rounds of at least 1 each.")
    sizes = batches[0], args.prompt_tokens, args.rounds, args.threads
    return show(args, training_speed.run(model_path(args), *sizes, peers, say), training_speed.table)


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


def numbers(option, text):  # -> [int]
    try:
        return [int(n) for n in text.split(",")]
    except ValueError:
        raise MiniLLMError(f"{option} takes whole numbers with commas between, found {text!r}.") from None


def run_attention(args):
    import importlib.util
    import sys

    from minillm.bench.attention import bench_attention, table
    from minillm.bench.machine import available_cores, measure_machine

    tokens = numbers("--tokens", args.tokens)
    peers = args.peers and importlib.util.find_spec("torch") is not None
    if args.peers and not peers:
        print("torch is not installed: pip install torch", file=sys.stderr)
    threads = args.threads or available_cores()
    kv_heads = args.heads if args.kv_heads is None else args.kv_heads
    result = bench_attention(tokens, args.heads, kv_heads, args.d_head, args.rounds, threads, peers, measure_machine)
    return show(args, result, table)


def run_model(args):
    import sys

    batches, path = numbers("--batch", args.batch), model_path(args)
    from minillm.bench import batches as table_of_batches
    from minillm.bench import report
    from minillm.bench.compare import check_sizes, compare, installed, say
    from minillm.bench.machine import measure_machine
    from minillm.model.load import bits_per_weight, read_config

    config, backend = read_config(path), backend_for(args, path)
    bits = 32 if backend == "numpy" else bits_per_weight(path, config)
    check_sizes(config, args.prompt_tokens, args.new_tokens, min(batches), args.rounds)
    say("measuring the machine's ceilings")
    machine = measure_machine()
    known = ("llama.cpp", "transformers") if len(batches) == 1 else ("llama.cpp",)
    peers = [name for name in known if installed(name)] if args.peers else []
    if args.peers and not peers:
        print("no peer is installed: pip install llama-cpp-python, or torch transformers gguf accelerate", file=sys.stderr)
    work = path, config, machine, ["minillm", *peers], args.prompt_tokens, args.new_tokens
    rest = args.rounds, args.threads or machine.cores, backend, bits, kv_for(args, backend)
    if len(batches) == 1:
        result, table = compare(*work, batches[0], *rest), report.table
    else:
        result, table = table_of_batches.compare_batches(*work, batches, *rest), table_of_batches.table
    say("")
    return show(args, result, table)
