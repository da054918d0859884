"""`minillm chat`: a conversation. The cache of the turns so far is kept: each turn feeds only what is new."""

import sys

from minillm.cli.common import (
    add_lora_option,
    add_model_options,
    add_sampling_options,
    chosen_adapter,
    load,
    pace,
    sampling_params,
)

HELP = "talk with a model; an empty line or Control-D ends it"


def configure(parser):
    add_model_options(parser)
    add_sampling_options(parser, max_tokens=512)
    add_lora_option(parser)
    parser.add_argument("--system", metavar="TEXT", help="a system message")


def run(args):
    from minillm.llm import Conversation

    params, adapter = sampling_params(args), chosen_adapter(args)
    talk = Conversation(load(args), args.system, adapter)
    asked = sys.stdin.isatty()
    while True:
        try:
            line = input("> " if asked else "").strip()
        except EOFError:
            break
        if not line:
            break
        try:
            for piece in talk.say(line, params, args.truncate):
                print(piece, end="", flush=True)
        except KeyboardInterrupt:  # ends the answer, not the conversation
            print(" [stopped]", end="")
        print(f"\n[{talk.reused:,} tokens from the cache · {pace(talk.last.metrics)}]" if asked else "", file=sys.stderr)
        print(flush=True)
    return 0
