"""`minillm inspect FILE.gguf`: what is in a model file, without loading the model; `inspect NAME`: what such a model takes.

    minillm inspect FILE.gguf                        header, metadata, tensors, bits per weight, what would run here
    minillm inspect FILE.gguf --plot                 a picture of what lies where: FILE.png
    minillm inspect FILE.gguf --block NAME 0         one block of a tensor, byte by byte
    minillm inspect llama-3.1-70b --context 131072   what a model of that shape takes (sizing.py)
"""

from argparse import Namespace
from pathlib import Path
from typing import Any

from minillm.cli.arguments import Parser
from minillm.cli.common import beside_json, print_json
from minillm.errors import MiniLLMError

HELP = "what a GGUF file holds; or, of a model's name (llama-3-70b), what it takes and what fits where"


def configure(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE|NAME", help="a .gguf file, a model by name, or a shape: llama-3-8b, qwen3-8b …")
    parser.add_argument("--context", type=int, metavar="N", help="what it takes, with the KV cache of so many tokens")
    parser.add_argument("--plot", nargs="?", const="", metavar="PNG", help="draw what lies where in the file (default: NAME.png)")
    parser.add_argument("--block", nargs=2, metavar=("NAME", "I"), help="take block I of a tensor apart, byte by byte")
    parser.add_argument("--json", action="store_true", help="one JSON object; long arrays as count and first elements")


def run(args: Namespace) -> int:
    from minillm.cli import sizing

    if args.context is None and (path := model_file(args.file)):
        return inspect_file(args, path)
    if args.plot is not None or args.block:
        raise MiniLLMError(f"--plot and --block show a GGUF file, found {args.file!r}: name one that is here, without --context.")
    facts = sizing.sizes(args.file, sizing.config_of(args.file), args.context)
    if args.json:
        print_json(facts)
    else:
        print("\n".join(sizing.report(facts)))
    return 0


def model_file(name: str) -> Path | str | None:  # a GGUF file, or None where a name stands for a shape
    """Find a file that is here, also by its name; a path is a file even where it is not there."""
    from minillm.errors import ModelError
    from minillm.model import zoo
    from minillm.model.presets import PRESETS

    try:
        path = zoo.resolve(name)
    except zoo.ModelNotDownloaded:
        if name in PRESETS:
            return None
        raise
    except ModelError:
        looks_like_a_path = any(part in name for part in "/\\") or name.endswith(".gguf")
        return name if looks_like_a_path and name not in PRESETS else None
    return path if path.is_file() else None


def inspect_file(args: Namespace, path: Path | str) -> int:
    from minillm.cli import contents
    from minillm.formats import anatomy
    from minillm.formats.gguf import open_gguf

    with open_gguf(path) as gguf:
        found = anatomy.walk(gguf, args.block[0], block_number(args.block[1])) if args.block else None
        facts: dict[str, Any] = contents.summary(gguf)
        if found:
            facts["block"] = contents.of_block(found)
        if args.plot is not None:
            from minillm.formats.gguf_plot import draw

            facts["plot"] = args.plot or f"{gguf.path.stem}.png"
            draw(gguf, facts["plot"])
            print(f"wrote {facts['plot']}", file=beside_json(args))
    if args.json:
        print_json(facts)
    elif found:
        print("\n".join(anatomy.lines(found)))
    elif args.plot is None:
        print("\n".join(contents.report(facts)))
    return 0


def block_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise MiniLLMError(f"--block takes a tensor's name and the number of a block, found {text[:60]!r}.") from None
