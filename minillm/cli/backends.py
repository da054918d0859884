"""`minillm backends`: which backends this machine can run, and with how many threads."""

from argparse import Namespace
from collections.abc import Iterator

from minillm.cli.arguments import Parser
from minillm.errors import MiniLLMError

HELP = "list the backends, whether this machine can run them, and with how many threads"


def configure(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: Namespace) -> int:
    from minillm.backends import BACKENDS
    from minillm.cli.common import print_json

    found = {name: look(name) for name in BACKENDS}
    if args.json:
        print_json(found)
    else:
        print("\n".join(line for name, facts in found.items() for line in report(name, facts)))
    return 0


def look(name: str) -> dict:
    """Load a backend and let it tell about itself."""
    from minillm.backends import get_backend

    try:
        ops = get_backend(name)
    except MiniLLMError as error:
        return {"available": False, "summary": str(error)}
    return {"available": True, "summary": ops.summary, **(ops.state() if ops.state else {})}


def report(name: str, facts: dict) -> Iterator[str]:
    yield f"{name:8} {facts['summary']}"
    if "threads" in facts:
        folder, count = facts["kernel_folder"], facts["compiled_kernels"]
        kept = f"{count} compiled kernels kept in {folder}" if folder else "kernels not kept: the cache folder cannot be written"
        yield f"{'':8} {facts['threads']} threads, {'a' if facts['matrix_unit'] else 'no'} matrix unit, {kept}"
