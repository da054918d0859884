"""`minillm loadtest`: how a server does under load. Any OpenAI-compatible server; the report names its conventions.

--rate 4                        an open loop, Poisson; --arrivals gamma --burstiness 0.25 for bursts, constant for none
--concurrency 16                a closed loop
--trace FILE --time-scale 0.1   the arrivals and lengths of a trace, ten times as fast as they were
"""

import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from minillm.cli.arguments import Parser
from minillm.cli.common import print_json

if TYPE_CHECKING:
    from minillm.load.client import Client
    from minillm.load.generator import LoadTest

HELP = "send a workload to an OpenAI-compatible server: TTFT, TPOT, throughput, goodput, with intervals"


def configure(parser: Parser) -> None:
    parser.add_argument("--url", required=True, metavar="URL", help="http://HOST:PORT, with or without /v1")
    parser.add_argument("--model", metavar="NAME", help="default: the first that the server lists")
    parser.add_argument("--chat", action="store_true", help="use /v1/chat/completions (default: /v1/completions)")
    parser.add_argument("--api-key-env", metavar="NAME", help="environment variable that holds the API key")
    parser.add_argument("--requests", type=int, default=100, metavar="N", help="default: %(default)s")
    when = parser.add_argument_group("when").add_mutually_exclusive_group()
    when.add_argument("--rate", type=float, metavar="R", help="requests per second, however slow the answers (default: 1)")
    when.add_argument("--concurrency", type=int, metavar="N", help="so many at a time, each after the last")
    more = parser.add_argument_group("of an open loop")
    more.add_argument("--arrivals", choices=["poisson", "gamma", "constant"], help="default: poisson")
    more.add_argument("--burstiness", type=float, metavar="B", help="of gamma: 1 is Poisson, less is burstier")
    more.add_argument("--time-scale", type=float, metavar="X", help="seconds for each second of the trace (default: 1)")
    what = parser.add_argument_group("what")
    what.add_argument("--trace", metavar="FILE", help="Azure CSV, Mooncake JSONL, or ShareGPT lengths; its own times unless told")
    what.add_argument("--lengths", metavar="NAME", help="a profile: azure_conv, mooncake_conv, sharegpt_8k, or a file")
    what.add_argument("--prompt-tokens", type=int, metavar="N", help="of every prompt (default: 128); of a trace: at most")
    what.add_argument("--new-tokens", type=int, metavar="N", help="of every answer (default: 32); of a trace: at most")
    what.add_argument("--token-ids", metavar="A:B", help="send token ids from A up to B, exact, where the server takes them")
    what.add_argument("--ignore-eos", action="store_true", help="ask for answers of full length (vLLM, minillm)")
    what.add_argument("--seed", type=int, default=0, metavar="N", help="of times, lengths and prompts (default: %(default)s)")
    parser.add_argument("--slo", metavar="LIST", help="objectives in seconds, such as ttft=0.5,tpot=0.05 (also itl, tbt, e2e)")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="S", help="seconds for a request (default: %(default)s)")
    parser.add_argument("--out", metavar="DIR", help="write loadtest.json, requests.csv, loadtest.png, trace.json there")
    parser.add_argument("--json", action="store_true", help="print one JSON object, and the table to standard error")


def run(args: Namespace) -> int:
    import asyncio
    import os

    from minillm.errors import MiniLLMError
    from minillm.load.client import Client
    from minillm.load.client_sse import Trouble
    from minillm.metrics import summary

    slo = summary.parse_slo(args.slo) if args.slo else None
    requests, told = plan(args)
    vocabulary = token_range(args.token_ids) if args.token_ids else None
    if (name := args.api_key_env) and not os.environ.get(name):
        raise MiniLLMError(f"--api-key-env: there is no environment variable {name}, or it is empty.")
    options = {"ignore_eos": True} if args.ignore_eos else {}
    key = os.environ[name] if name else None
    client = Client(args.url, args.model, api_key=key, chat=args.chat, timeout=args.timeout, options=options)
    try:
        test = asyncio.run(under_way(client, requests, args, vocabulary))
    except Trouble as trouble:
        if trouble.kind != "http 401":
            raise
        found = f"the server does not take the key in {name}" if name else "the server wants an API key"
        hint = "--api-key-env NAME says which environment variable holds it"
        raise MiniLLMError(f"{found} (http 401: {trouble.message}); {hint}.") from None

    from minillm.load import report as shown
    from minillm.load.generator import report

    result = {"server": args.url, "model": client.model, "workload": told, "seed": args.seed, **report(test, slo)}
    to_read = sys.stderr if args.json else sys.stdout  # with --json, standard output is the object and nothing else
    print(shown.table(result), file=to_read)
    if args.out:
        print("written: " + ", ".join(str(path) for path in shown.write(result, test, args.out)), file=to_read)
    else:
        print(f"nothing was written: --out DIR writes {', '.join(shown.FILES)}", file=to_read)
    if args.json:
        print_json(result)
    return 130 if test.stopped else 0


async def under_way(client: "Client", requests: list, args: Namespace, vocabulary: tuple[int, int] | None) -> "LoadTest":
    from minillm.load import generator
    from minillm.terminal import bar

    with bar(len(requests), "requests") as progress:
        options = {"concurrency": args.concurrency, "seed": args.seed, "vocabulary": vocabulary, "progress": progress.update}
        try:
            return await generator.run(client, requests, **options, ready=progress.unpause)
        finally:
            client.close()


def plan(args: Namespace) -> tuple[list, str]:  # [Request] with their times, and in words
    """Plan the requests and their times. Errors: options that contradict each other, a trace that cannot be read."""
    import math

    from minillm.errors import MiniLLMError
    from minillm.load import workload
    from minillm.load.profiles import draw, load_profile
    from minillm.load.traces import read_any

    if args.trace and args.lengths:
        raise MiniLLMError("--trace and --lengths both say how long requests are: give one of them.")
    if args.requests < 1:
        raise MiniLLMError(f"--requests must be at least 1, found {args.requests}.")
    if args.trace or args.lengths:
        if args.trace:
            requests = read_any(args.trace)[: args.requests]
        else:
            requests = draw(load_profile(args.lengths), args.requests, args.seed)
        requests = workload.cut(requests, args.prompt_tokens, args.new_tokens)
        told = f"{len(requests):,} requests, lengths of {args.trace or args.lengths}"
    else:
        lengths = 128 if args.prompt_tokens is None else args.prompt_tokens, 32 if args.new_tokens is None else args.new_tokens
        requests, told = (
            workload.fixed(args.requests, *lengths),
            f"{args.requests:,} requests, {lengths[0]} tokens in, {lengths[1]} out",
        )
    if args.concurrency is not None:
        if args.arrivals or args.burstiness or args.time_scale:
            raise MiniLLMError("--concurrency is a closed loop: --arrivals, --burstiness and --time-scale are of an open one.")
        return requests, f"{told}, {args.concurrency} at a time"
    if args.trace and args.rate is None:
        scale = 1.0 if args.time_scale is None else args.time_scale
        return workload.as_traced(requests, scale), f"{told}, at its times × {scale:g}"
    if args.time_scale is not None:
        raise MiniLLMError("--time-scale stretches the times of a trace: give --trace, and no --rate.")
    if (args.burstiness is not None) != (args.arrivals == "gamma"):
        raise MiniLLMError("--burstiness and --arrivals gamma go together.")
    rate = 1.0 if args.rate is None else args.rate
    shape = {"gamma": args.burstiness, "constant": math.inf}.get(args.arrivals, 1.0)
    times = workload.arrivals(len(requests), rate, shape, args.seed)
    return workload.at_times(requests, times), f"{told}, {args.arrivals or 'poisson'} at {rate:g}/s"


def token_range(text: str) -> tuple[int, int]:  # "100:250" -> (100, 250)
    from minillm.errors import MiniLLMError

    low, _, high = text.partition(":")
    if not (low.isdecimal() and high.isdecimal() and int(low) < int(high)):
        raise MiniLLMError(f"--token-ids takes two token ids, the lower first, such as 100:250; found {text!r}.")
    return int(low), int(high)
