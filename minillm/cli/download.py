"""`minillm download NAME`: fetch a model into the cache folder, once; print the path of its file."""

import signal
from argparse import Namespace

from minillm.cli.arguments import Parser

HELP = "fetch a model by name, or a file from the Hugging Face hub"


def configure(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", help="smollm2-135m, or hf:ORG/REPO/FILE.gguf")


def run(args: Namespace) -> int:
    from minillm.model.zoo import download

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` and `timeout` clean up as Control-C does
    print(download(args.name))
    return 0
