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

Each benchmark has defaults of its own for the options that it takes, and refuses those that it has no use for.
"""

import sys

from minillm.cli.common import (
    DEFAULT_MODEL,
    add_kv_option,
    add_model_options,
    beside_json,
    load,
    model_path,
    print_json,
    share_now,
    tell_share,
)
from minillm.errors import MiniLLMError

HELP = "measure prefill and decode speed, or attention alone; --peers adds llama.cpp, transformers, torch where installed"
PEERS_HELP = "also measure llama.cpp, with a single batch size transformers too; for attention and training: torch"
MODEL = {"model": DEFAULT_MODEL, "backend": "auto", "threads": None}
OPTIONS = {  # benchmark -> {option it takes: default}
    "model": MODEL | {"prompt_tokens": 512, "new_tokens": 32, "batch": "1", "rounds": 5, "kv": None, "peers": False},
    "attention": {"threads": None, "tokens": "512,2048,8192", "heads": 9, "kv_heads": None, "d_head": 64}
    | {"rounds": 5, "peers": False},
    "ttft": MODEL | {"prompt_tokens": 1000, "rounds": 3},
    "paging": {"trace": None, "requests": None},
    "prefix": {"trace": None, "requests": None},
    "blocks": {"requests": 3000},
    "serving": MODEL | {"kv": None, "batch": "16", "new_tokens": 40},
    "kernels": {"model": "smollm2-135m", "threads": None, "rounds": 3},
    "pair": MODEL | {"kv": None, "draft": "tiny-draft", "corpus": None, "held_out": 0.03, "requests": 40, "new_tokens": 96},
    "training": {"model": DEFAULT_MODEL, "threads": None, "prompt_tokens": 512, "batch": "1", "rounds": 5, "peers": False},
}  # fmt: skip


def configure(parser):
    parser.add_argument("what", nargs="?", choices=list(OPTIONS), default="model", help="default: %(default)s")
    add_model_options(parser)
    parser.add_argument("--prompt-tokens", type=int, metavar="N", help="default: 512; ttft: 1000")
    parser.add_argument("--new-tokens", type=int, metavar="N", help="default: 32; serving: 40; pair: 96")
    parser.add_argument("--batch", metavar="N,N", help="sequences at once, one or several (default: 1; serving: 16)")
    parser.add_argument("--rounds", type=int, metavar="N", help="alternations (default: 5; ttft, kernels: 3)")
    add_kv_option(parser)
    parser.add_argument("--peers", action="store_true", help=PEERS_HELP)
    parser.add_argument("--json", action="store_true", help="print one JSON object; the table goes to standard error")
    replayed = parser.add_argument_group("paging, prefix, blocks, pair")
    replayed.add_argument("--trace", metavar="FILE", help="paging: Azure's CSV; prefix: Mooncake's JSONL (default: a profile)")
    replayed.add_argument("--requests", type=int, metavar="N", help="so many (default: all of a trace; blocks: 3000; pair: 40)")
    couple = parser.add_argument_group("pair")
    couple.add_argument("--draft", metavar="M", help="the model that proposes (default: tiny-draft)")
    couple.add_argument("--corpus", metavar="FILE", help="documents with <|endoftext|> between them (default: our stories)")
    couple.add_argument("--held-out", type=float, metavar="P", help="share kept for judging (default: 0.03)")
    alone = parser.add_argument_group("attention alone")
    alone.add_argument("--tokens", metavar="N,N", help="sizes (default: 512,2048,8192)")
    alone.add_argument("--heads", type=int, metavar="N", help="query heads (default: 9)")
    alone.add_argument("--kv-heads", type=int, metavar="N", help="key and value heads (default: as many)")
    alone.add_argument("--d-head", type=int, metavar="N", help="components of a head (default: 64)")
    parser.set_defaults(model=None, backend=None)


def run(args):
    settle(args)
    ways = {"model": run_model, "attention": run_attention, "ttft": run_ttft, "serving": run_serving, "kernels": run_kernels}
    ways |= {"pair": run_pair, "training": run_training, "blocks": run_blocks}
    before = share_now()
    result, table = ways.get(args.what, run_replay)(args)
    result["cpu_share"] = tell_share(before)
    print(table(result), file=beside_json(args))
    if args.json:
        print_json(result)
    return 0


def settle(args):
    """Fill in this benchmark's defaults. MiniLLMError for an option that it takes no notice of, or a number below 1."""
    mine = OPTIONS[args.what]
    for name in {name: None for options in OPTIONS.values() for name in options}:
        option, value = "--" + name.replace("_", "-"), getattr(args, name)
        if value is None or value is False:  # 0 is neither, and too small
            setattr(args, name, mine.get(name))
        elif name not in mine:
            raise MiniLLMError(f"`minillm bench {args.what}` takes no {option}; it takes {', '.join(map(spelled, mine))}.")
        elif isinstance(value, int) and value < 1:
            raise MiniLLMError(f"{option} must be at least 1, found {value}.")


def spelled(name):
    return "--" + name.replace("_", "-")


# --- one function a benchmark: -> its result, ready for JSON, and the function that makes a table of it ---------------------


def run_ttft(args):
    from minillm.bench.prefix import run, table

    return run(load(args), args.prompt_tokens, rounds=args.rounds), table


def run_serving(args):
    from minillm.bench import serving

    batch = one_number("--batch", args.batch)
    return serving.run(load(args), batch, args.new_tokens), serving.table


def run_kernels(args):
    from minillm.bench import kernels
    from minillm.model.load import read_config
    from minillm.model.presets import PRESETS

    if args.model in PRESETS:
        return kernels.run(args.model, PRESETS[args.model], args.rounds), kernels.table
    config = read_config(model_path(args))
    return kernels.run(config.name, config, args.rounds), kernels.table


def run_pair(args):
    from minillm.bench import pair
    from minillm.llm import LLM
    from minillm.model import zoo
    from minillm.training.data import read_corpus, split

    corpus = args.corpus or zoo.embedded_folder().parent / "corpus" / "stories.txt.xz"
    _, held_out = split(read_corpus(corpus), "<|endoftext|>", args.held_out)
    if not held_out:
        raise MiniLLMError(f"{corpus}: no document is held out at a share of {args.held_out:g}; raise --held-out.")
    return pair.run(load(args), LLM(zoo.resolve(args.draft)), held_out, args.requests, args.new_tokens), pair.table


def run_training(args):
    from minillm.bench import training_speed
    from minillm.bench.compare import say
    from minillm.bench.peers import installed

    peers = args.peers and installed("transformers")
    if args.peers and not peers:
        absent("torch transformers gguf accelerate")
    sizes = one_number("--batch", args.batch), args.prompt_tokens, args.rounds, args.threads
    return training_speed.run(model_path(args), *sizes, peers, say), training_speed.table


def run_blocks(args):
    from minillm.bench import blocks

    return blocks.run(args.requests), blocks.table


def run_replay(args):
    from minillm.bench import replay

    return replay.run(args.what, args.trace, args.requests), replay.table


def run_attention(args):
    import importlib.util

    from minillm.bench.attention import bench_attention, table
    from minillm.bench.machine import available_cores, measure_machine

    tokens = numbers("--tokens", args.tokens)
    peers = args.peers and importlib.util.find_spec("torch") is not None
    if args.peers and not peers:
        absent("torch")
    threads = args.threads or available_cores()
    kv_heads = args.heads if args.kv_heads is None else args.kv_heads
    return bench_attention(tokens, args.heads, kv_heads, args.d_head, args.rounds, threads, peers, measure_machine), table


def run_model(args):
    batches, path = numbers("--batch", args.batch), model_path(args)
    from minillm.backends import get_backend
    from minillm.bench import batches as table_of_batches
    from minillm.bench import report
    from minillm.bench.compare import check_sizes, compare, say
    from minillm.bench.machine import available_cores, measure_machine
    from minillm.bench.peers import installed
    from minillm.model.load import bits_per_weight, chosen, read_config

    config, backend = read_config(path), chosen(args.backend, path)
    kv = args.kv or get_backend(backend).kv_dtype
    bits = 32 if backend == "numpy" else bits_per_weight(path, config)
    check_sizes(config, args.prompt_tokens, args.new_tokens, min(batches), args.rounds)
    def measure():
        say("measuring the machine's ceilings")
        return measure_machine(kernels=backend == "numba")

    known = ("llama.cpp", "transformers") if len(batches) == 1 else ("llama.cpp",)
    peers = [name for name in known if installed(name)] if args.peers else []
    if args.peers and not peers:
        absent("llama-cpp-python, or torch transformers gguf accelerate")
    work = path, config, measure, ["minillm", *peers], args.prompt_tokens, args.new_tokens
    rest = args.rounds, args.threads or available_cores(), backend, bits, kv
    if len(batches) == 1:
        result, table = compare(*work, batches[0], *rest), report.table
    else:
        result, table = table_of_batches.compare_batches(*work, batches, *rest), table_of_batches.table
    say("")
    return result, table


def absent(packages):
    """--peers where there is none: say so, and measure ourselves."""
    print(f"minillm: no peer is installed, so there is none beside us; pip install {packages}", file=sys.stderr)


def numbers(option, text):  # "1,4,8" -> [1, 4, 8]
    try:
        found = [int(n) for n in text.split(",")]
    except ValueError:
        raise MiniLLMError(f"{option} takes whole numbers with commas between, found {text!r}.") from None
    if min(found) < 1:
        raise MiniLLMError(f"{option} must be at least 1, found {min(found)}.")
    return found


def one_number(option, text):
    found = numbers(option, text)
    if len(found) > 1:
        raise MiniLLMError(f"{option} takes one number here, found {text!r}.")
    return found[0]
