"""`minillm generate`: one prompt, answered as it is made."""

import sys
from argparse import Namespace
from dataclasses import asdict
from typing import TYPE_CHECKING

from minillm.cli.arguments import Parser
from minillm.cli.common import (
    add_activations_option,
    add_kv_option,
    add_lora_option,
    add_model_options,
    add_sampling_options,
    chosen_adapter,
    computing,
    load,
    pace,
    print_json,
    sampling_params,
)
from minillm.cli.speculation import add_speculate_options, check_speculate, speculation

if TYPE_CHECKING:
    from minillm.metrics.events import EventLog

HELP = "complete a prompt, or answer it with --chat"


def configure(parser: Parser) -> None:
    parser.add_argument("prompt", metavar="PROMPT", help="the text to go on from; - reads standard input")
    add_model_options(parser)
    add_sampling_options(parser)
    add_lora_option(parser)
    add_kv_option(parser, "float32")
    add_activations_option(parser)
    add_speculate_options(parser)
    parser.add_argument("--chat", action="store_true", help="put the prompt into the model's chat template, as a user's message")
    parser.add_argument("--system", metavar="TEXT", help="a system message before it, with --chat")
    parser.add_argument("--logprobs", type=int, metavar="N", help="with --json: log-probabilities of N alternatives per token")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the text")


def run(args: Namespace) -> int:
    from minillm.bench.machine import peak_rss_bytes
    from minillm.llm import Completion
    from minillm.metrics.events import EventLog

    check_speculate(args)
    params = sampling_params(args, logprobs=args.logprobs)
    adapter = chosen_adapter(args)
    llm = load(args)
    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    if args.chat:
        system = [{"role": "system", "content": args.system}] if args.system else []
        prompt = llm.chat([*system, {"role": "user", "content": prompt}])

    finished: list[Completion] = []
    log = EventLog()
    try:
        if drafts := speculation(args, llm):
            from minillm.engine.engine import Engine

            engine = Engine(llm, log=log, **drafts)
            pieces = engine.stream(prompt, params, finished.append, truncate=args.truncate, adapter=adapter)
        else:
            pieces = llm.stream(prompt, params, args.truncate, finished.append, adapter)
        for piece in pieces:
            if not args.json:
                print(piece, end="", flush=True)
    finally:
        if finished and not args.json:
            drafted, accepted = drafts_of(log)
            told = f" · {accepted:,} of {drafted:,} draft tokens kept" if args.speculate else ""
            print(f"\n[{pace(finished[0].metrics, computing(llm))}{told}]", file=sys.stderr)
    if args.json:
        values = asdict(finished[0])
        metrics = values.pop("metrics")
        if args.logprobs is None:
            del values["logprobs"]
        if args.speculate:
            metrics |= dict(zip(("draft_tokens", "accepted_tokens"), drafts_of(log), strict=True))
        print_json({**values, **metrics, "peak_rss_bytes": peak_rss_bytes(), "model": args.model})
    return 0


def drafts_of(log: "EventLog") -> tuple[int, int]:
    """Count the draft tokens that were verified, and those of them that were kept."""
    from minillm.metrics.events import ACCEPTED, DRAFTED

    return sum(e.tokens for e in log.events if e.kind == DRAFTED), sum(e.tokens for e in log.events if e.kind == ACCEPTED)
