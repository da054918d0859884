"""`minillm chat`: a conversation. The cache of the turns so far is kept: each turn feeds only what is new.

Lines that begin with a slash are commands, such as /help; with a space in front they go to the model.
"""

import sys
from argparse import Namespace
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
    sampling_given,
)

if TYPE_CHECKING:
    from minillm.model.tokenizer.chat import ChatTemplate

HELP = "talk with a model; /help says how, an empty line or Control-D ends it"
COMMANDS = {
    "/help": "what there is",
    "/reset": "forget the conversation and begin another",
    "/exit": "end it, as an empty line and Control-D do",
}
TALKER = "smollm2-135m"
STORIES = ("tiny", "tiny-draft")


def configure(parser: Parser) -> None:
    add_model_options(parser)
    add_sampling_options(parser, max_tokens=512, models_own=True)
    add_lora_option(parser)
    add_kv_option(parser, "float32")
    add_activations_option(parser)
    parser.add_argument("--system", metavar="TEXT", help="a system message")


def run(args: Namespace) -> int:
    from minillm.llm import Conversation
    from minillm.model.defaults import chosen_sampling
    from minillm.model.params import SamplingParams

    given = sampling_given(args)
    SamplingParams(**given)  # refuses what makes no sense before a large model is loaded
    adapter, llm = chosen_adapter(args), load(args)
    params = SamplingParams(**chosen_sampling(llm, given))
    cannot_chat(args.model, llm.tokenizer.chat)
    talk = Conversation(llm, args.system, adapter)
    asked = sys.stdin.isatty()
    while True:
        try:
            line = input("> " if asked else "")
        except EOFError:
            break
        if line.startswith("/"):
            if not command(line.strip()):
                break
            if line.strip() == "/reset":
                talk = Conversation(llm, args.system, adapter)
            continue
        if not line.strip():
            break
        try:
            for piece in talk.say(line.strip(), params, args.truncate):
                print(piece, end="", flush=True)
        except KeyboardInterrupt:  # ends the answer, not the conversation
            print(" [stopped]", end="")
        told = ""
        if asked and talk.last:
            told = f"\n[{talk.reused:,} tokens from the cache · {pace(talk.last.metrics, computing(llm))}]"
        print(told, file=sys.stderr)
        print(flush=True)
    return 0


def command(line: str) -> bool:  # whether the conversation goes on
    """Carry out a command, and describe it on standard error. An unknown one changes nothing."""
    if line == "/exit":
        return False
    if line == "/reset":
        print("[a new conversation]", file=sys.stderr)
        return True
    if line != "/help":
        name = line.split()[0][:40]
        print(f"{name} is no command; a message that begins with a slash needs a space in front.", file=sys.stderr)
    for name, does in COMMANDS.items():
        print(f"{name:8} {does}", file=sys.stderr)
    return True


def cannot_chat(model: str, template: "ChatTemplate | None") -> None:
    """Warn, in one line, about a base model, which continues texts and does not answer: its template knows no roles.

    TokenizerError where there is no template at all.
    """
    from minillm.errors import TokenizerError

    advice = f"For a chat: minillm download {TALKER}, then minillm chat --model {TALKER}."
    if template is None:
        raise TokenizerError(f"{model} cannot chat: its file has no chat template. {advice}")
    if "role" not in template.source:
        does = "tells stories" if model in STORIES else "goes on with a text"
        print(f"{model} {does} and cannot chat: it goes on from what you write. {advice}", file=sys.stderr)
