"""`minillm serve`: a model behind OpenAI's HTTP interface, on this machine alone unless told otherwise."""

import json
import os
import re
import sys
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from minillm.cli.arguments import Parser
from minillm.cli.common import add_activations_option, add_kv_option, add_model_options, computing, load, print_json
from minillm.errors import MiniLLMError

if TYPE_CHECKING:
    from minillm.engine.async_engine import AsyncEngine
    from minillm.llm import LLM
    from minillm.model.config import ModelConfig
    from minillm.scheduler.config import SchedulerConfig
    from minillm.server.guards import Options
    from minillm.server.metrics_page import MetricsPage

HELP = "serve a model over HTTP, as OpenAI's clients expect it"
KEEP = 256  # requests that have ended stay in the event log: the page has seen them, and a server runs for months
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def configure(parser: Parser) -> None:
    add_model_options(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="H", help="0.0.0.0: every network (default: %(default)s, this machine)"
    )
    parser.add_argument("--port", type=int, default=8000, metavar="P", help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--name", metavar="NAME", help="what clients call the model (default: what --model says)")
    lora_help = "an adapter (a PEFT folder, or a GGUF file), and what clients call it as their model; may be repeated"
    parser.add_argument("--lora", action="append", default=[], metavar="NAME=PATH", help=lora_help)
    parser.add_argument("--json", action="store_true", help="print one JSON object with the address once it listens")
    defaults = "for requests that do not say how to sample: auto is the model's own values, openai is temperature 1"
    parser.add_argument("--generation-config", choices=["auto", "openai"], default="auto", help=f"{defaults} (default: auto)")
    parser.add_argument("--log-requests", action="store_true", help="write a line of JSON about each request to standard error")
    door = parser.add_argument_group("who may ask")
    door.add_argument(
        "--api-key-env", action="append", default=[], metavar="NAME",
        help="environment variable with a key; any of several keys will do (repeat it, or see --api-key-file)",
    )  # fmt: skip
    door.add_argument("--api-key-file", metavar="FILE", help="file with keys, one a line")
    door.add_argument(
        "--cors", action="append", default=[], metavar="ORIGIN",
        help="let web pages of this origin ask, such as http://localhost:3000; may be repeated, * is every page (default: none)",
    )  # fmt: skip
    engine = parser.add_argument_group("engine")
    memory = engine.add_mutually_exclusive_group()
    memory.add_argument("--blocks", type=int, metavar="N", help="blocks of the KV cache")
    memory.add_argument(
        "--kv-memory", metavar="SIZE", help="its size, such as 500M or 2GiB (default: a quarter of the memory, or less)"
    )
    add_kv_option(engine)
    add_activations_option(engine)
    engine.add_argument("--block-size", type=int, metavar="N", help="tokens of a block (default: 16, with kivi2 and kivi4 32)")
    engine.add_argument("--max-sequences", type=int, default=16, metavar="N", help="in one step (default: %(default)s)")
    budget = engine.add_mutually_exclusive_group()
    budget.add_argument("--max-tokens-per-step", type=int, default=512, metavar="N", help="default: %(default)s")
    budget.add_argument(
        "--tpot-limit", type=float, metavar="S",
        help="or as many as a step takes in so many seconds, by this machine's bandwidth and FLOP/s: an estimate from below",
    )  # fmt: skip
    engine.add_argument("--policy", choices=["static", "orca", "vllm", "chunked"], default="chunked", help="default: %(default)s")
    engine.add_argument("--order", choices=["fcfs", "priority", "fair", "cache"], default="fcfs", help="default: %(default)s")
    engine.add_argument("--preemption", choices=["recompute", "swap"], default="recompute", help="default: %(default)s")
    engine.add_argument(
        "--host-blocks", type=int, metavar="N", help="blocks to swap to (default: as many as --blocks, with swap)"
    )
    engine.add_argument("--prefix", choices=["hash", "radix", "none"], default="hash", help="prefix cache (default: %(default)s)")
    engine.add_argument(
        "--batch-invariant", action="store_true", help="logits that do not depend on the rest of the batch, to the bit; slower"
    )
    engine.add_argument("--speculate", metavar="P", help="guess ahead: ngram, suffix, draft:MODEL, self, eagle (default: not)")
    engine.add_argument("--draft-tokens", type=int, metavar="N", help="so many ahead (default: as many as pay, as measured)")
    engine.add_argument(
        "--max-queue", type=int, default=256, metavar="N", help="requests that may wait; more get 429 (default: %(default)s)"
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument("--timeout", type=float, default=600.0, metavar="S", help="seconds for a request (default: %(default)g)")
    limits.add_argument(
        "--grace", type=float, default=30.0, metavar="S", help="seconds to finish after SIGTERM (default: %(default)g)"
    )


def run(args: Namespace) -> int:
    try:
        from minillm.server.app import Served, create_app
        from minillm.server.listen import bind, make_server, raise_file_limit
    except ImportError as missing:
        raise MiniLLMError(f"`minillm serve` needs {missing.name}: pip install 'minillm-course[serve]'") from None

    from minillm.model.defaults import default_sampling

    options, args.adapters = limits(args), adapters(args)
    raise_file_limit()
    listener = bind(args.host, args.port)  # before the model is loaded: a port that is taken should not cost minutes
    with listener:
        llm = load(args)
        engine, page, config = build(args, llm)
        name, pool = args.name or args.model, config.num_blocks * config.block_size
        sampling = default_sampling(llm) if args.generation_config == "auto" else {}
        app = create_app(engine, Served.from_llm(llm, name, pool, args.order == "priority", sampling), options, page)
        port = listener.getsockname()[1]
        shown = f"{name} on {computing(llm)}"
        make_server(app, lambda: announce(args, shown, port, config, options.api_key)).run(sockets=[listener])
    return 0


def adapters(args: Namespace) -> dict[str, str]:  # {name: path}
    """Read --lora. A client sends the name, so each adapter must have one, and a different one."""
    found = {}
    for given in args.lora:
        name, equals, path = given.partition("=")
        if not (name.strip() and equals and path):
            raise MiniLLMError(f"--lora takes NAME=PATH, found {given!r}.")
        if name in found or name == (args.name or args.model):
            raise MiniLLMError(f"--lora: every model and adapter needs a name of its own, found {name!r} twice.")
        found[name] = path
    return found


def build(args: Namespace, llm: "LLM") -> "tuple[AsyncEngine, MetricsPage, SchedulerConfig]":
    """Build the engine that the options ask for, warm it up, and make the page that its log feeds."""
    from minillm.engine.async_engine import AsyncEngine
    from minillm.engine.engine import Engine
    from minillm.engine.warmup import warm_up
    from minillm.server.metrics_page import MetricsPage, WatchedLog
    from minillm.speculative.proposers import make_proposer

    config = scheduler_config(args, llm.config, llm.transformer.kv)
    if args.tpot_limit is not None:
        config = replace(config, max_tokens_per_step=step_budget(args.tpot_limit, llm, config))
    log, page = WatchedLog(keep_last=KEEP), MetricsPage()
    if args.draft_tokens is not None and (args.speculate is None or args.draft_tokens < 1):
        raise MiniLLMError(f"--draft-tokens goes with --speculate and is at least 1, found {args.draft_tokens}.")
    proposer = make_proposer(args.speculate, llm.transformer, llm.tokenizer) if args.speculate else None
    engine = Engine(llm, config, invariant=args.batch_invariant, log=log, proposer=proposer, gamma=args.draft_tokens)
    with ThreadPoolExecutor(1) as passing:  # no request should wait for a compiler; a thread: see load_model
        passing.submit(warm_up, engine).result()
    log.page = page
    return AsyncEngine(engine, max_queue=args.max_queue), page, config


def announce(args: Namespace, name: str, port: int, config: "SchedulerConfig", key: object) -> None:
    """Say where it listens and from where it can be reached, once it does."""
    from minillm.server.guards import is_loopback

    url = f"http://{f'[{args.host}]' if ':' in args.host else args.host}:{port}/v1"
    local = is_loopback(args.host)
    reach = "this machine alone can reach it" if local else "other machines can reach it"
    print(f"{name} at {url} ({reach}; {config.num_blocks:,} KV blocks of {config.block_size})", file=sys.stderr, flush=True)
    if not local and key is None:
        warning = "warning: any client that can reach this port can use it: give --api-key-env or --api-key-file"
        print(warning, file=sys.stderr, flush=True)
    if args.json:
        print_json({"url": url, "port": port, "pid": os.getpid(), "model": name})


def limits(args: Namespace) -> "Options":
    from minillm.server.guards import Options, is_loopback

    for name in ("timeout", "grace"):
        if not 0 < getattr(args, name) < float("inf"):
            raise MiniLLMError(f"--{name} must be a number of seconds above 0, found {getattr(args, name)}.")
    if not 0 <= args.port <= 65535:
        raise MiniLLMError(f"--port must be from 0 to 65,535, found {args.port:,}.")
    if args.max_queue < 1:
        raise MiniLLMError(f"--max-queue must be at least 1, found {args.max_queue}.")
    times = {"timeout_s": args.timeout, "grace_s": args.grace}
    log = write_line if args.log_requests else None
    return Options(api_key=api_keys(args), local=is_loopback(args.host), cors=origins(args.cors), log=log, **times)


def write_line(values: dict) -> None:
    """Write the record of a request to the log."""
    print(json.dumps(values), file=sys.stderr, flush=True)


def origins(given: list[str]) -> tuple[str, ...]:
    """Check origins as browsers send them: scheme, host, and a port that is not the scheme's own. Others would match no page."""
    for origin in given:
        if origin != "*" and not re.fullmatch(r"https?://[a-z0-9.\-\[\]:]+", origin):
            wanted = "an origin is http://HOST or https://HOST, in small letters, perhaps with :PORT, and without a path; or *"
            raise MiniLLMError(f"--cors: {wanted}. Found {origin!r}.")
    return tuple(given)


def api_keys(args: Namespace) -> tuple[str, ...] | None:
    """Read the keys from where no other user's `ps` sees them. One that was meant and is not there is an error."""
    found = [(os.environ.get(name, ""), f"the environment variable {name}") for name in args.api_key_env]
    if args.api_key_file is not None:
        try:
            with open(args.api_key_file, encoding="utf-8") as file:
                lines = [line for line in file.read().splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise MiniLLMError(f"cannot read the API keys: {error}.") from None
        found += [(line, args.api_key_file) for line in lines or [""]]
    for key, where in found:
        if not re.fullmatch(r"[!-~]+", key.strip()):
            raise MiniLLMError(
                f"an API key is one or more visible ASCII characters on one line; {where} holds {len(key.strip())} characters."
            )
    return tuple(key.strip() for key, _ in found) or None


def scheduler_config(args: Namespace, model: "ModelConfig", kv: str = "float32") -> "SchedulerConfig":
    """Make the scheduler's limits. Blocks: as given, or a whole context for every sequence, in at most a quarter of memory.

    What KIVI keeps in full of each sequence is no part of a block, and of the memory it comes off first.
    """
    from minillm.cache.kinds import block_size_for, check_kv
    from minillm.costs.memory import kivi_window_bytes, kv_token_bytes
    from minillm.memory import available_bytes, refuse_beyond_memory
    from minillm.scheduler.scheduler import SchedulerConfig

    block_size = block_size_for(kv) if args.block_size is None else args.block_size
    if block_size < 1:
        raise MiniLLMError(f"--block-size must be at least 1, found {block_size}.")
    check_kv(kv, model.d_head, block_size)
    block_bytes, windows = kv_token_bytes(model, kv) * block_size, args.max_sequences * kivi_window_bytes(model, kv)
    blocks = args.blocks
    if args.kv_memory is not None:
        blocks = max(0, size(args.kv_memory) - windows) // block_bytes
    elif blocks is None:
        wanted = args.max_sequences * -(-model.context_length // block_size)
        blocks = min(wanted, max((available_bytes() or 2**31) // 4, 2**26) // block_bytes)
    if blocks < 1:
        raise MiniLLMError(f"the KV cache needs at least one block of {block_bytes:,} bytes, found {blocks:,} blocks.")
    refuse_beyond_memory(blocks * block_bytes, f"a KV cache of {blocks:,} blocks")  # before its bookkeeping is made
    swap = args.preemption == "swap"
    return SchedulerConfig(
        num_blocks=blocks,
        block_size=block_size,
        host_blocks=(blocks if args.host_blocks is None else args.host_blocks) if swap else 0,
        max_sequences=args.max_sequences,
        max_tokens_per_step=args.max_tokens_per_step,
        policy=args.policy,
        order=args.order,
        preemption=args.preemption,
        prefix=None if args.prefix == "none" else args.prefix,
        context_length=model.context_length,
    )


def step_budget(limit: float, llm: "LLM", config: "SchedulerConfig") -> int:  # seconds -> tokens of a step
    """Choose a step's token budget for a limit that the longest step meets: all decodes, a full pool, a long prompt's end."""
    from minillm.bench.machine import measure_machine
    from minillm.costs.memory import kv_bits
    from minillm.costs.time import largest_chunk, step_time
    from minillm.model.load import bits_per_weight
    from minillm.model.zoo import resolve

    model, decodes, compiled = llm.config, config.max_sequences, llm.transformer.ops.name != "numpy"
    bits = bits_per_weight(resolve(llm.source), model) if compiled and isinstance(llm.source, str | os.PathLike) else 32
    machine, kv_width = measure_machine(megabytes=256, kernels=compiled), kv_bits(llm.transformer.kv, model.d_head)
    context = min(model.context_length, config.num_blocks * config.block_size // decodes)
    rest = decodes, context, model.context_length, bits, kv_width
    flops, bandwidth = machine.peak(compiled), machine.read_bytes_per_s
    chunk = largest_chunk(model, flops, bandwidth, limit, model.context_length, *rest)
    if not chunk:
        least = step_time(model, flops, bandwidth, decodes, context, 1, *rest[2:])
        raise MiniLLMError(
            f"--tpot-limit: a step of {decodes:,} decodes and one token of a prompt takes {least:.3g} s at least on this "
            f"machine, {limit:g} s are allowed. Allow more, or fewer --max-sequences."
        )
    return decodes + chunk


def size(text: str) -> int:  # "2GiB" -> bytes
    """Parse bytes, from a number with a unit: k, M, G are powers of ten, Ki, Mi, Gi of two."""
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([kmg]i?|)b?", text.strip().lower())
    if not found:
        raise MiniLLMError(f"a size is a number with a unit, such as 500M or 2GiB, found {text[:40]!r}.")
    return int(float(found[1]) * UNITS[found[2]])
