"""`minillm quantize IN OUT --type q4_k_m`: a GGUF file with fewer bits per weight, tensor by tensor, in little memory.

The type is a mix: q4_k_m gives most matrices Q4_K and the touchy ones Q6_K (formats/mixes.py). --dry-run shows which tensor gets
which type, and how large the file will be, and writes nothing.
"""

import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from minillm.cli.arguments import Parser
from minillm.cli.common import or_download, print_json
from minillm.terminal import table

if TYPE_CHECKING:
    from minillm.formats.blocks import BlockType
    from minillm.formats.gguf import GGUFFile
    from minillm.formats.requantize import Requantized

HELP = "write a GGUF file with another type of weights: q8_0, q4_k_m, f16 …; with --imatrix, the columns that matter keep more"


def configure(parser: Parser) -> None:
    parser.add_argument("model", metavar="IN", help="a .gguf file, best one in F16 or BF16, or a model by name")
    parser.add_argument("out", metavar="OUT", nargs="?", help="the new .gguf file")
    parser.add_argument("--type", required=True, metavar="T", help="q4_k_m, q8_0, iq4_nl, f16 …: a wrong one lists them")
    parser.add_argument("--imatrix", metavar="FILE", help="importance matrix of this model: llama.cpp's, or `minillm imatrix`'s")
    parser.add_argument("--dry-run", action="store_true", help="show the type of each tensor, and write nothing")
    parser.add_argument("--threads", type=int, metavar="N", help="encode on so many threads (default: all cores)")
    parser.add_argument("--json", action="store_true", help="one JSON object: sizes, bits per weight, the type of each tensor")


def run(args: Namespace) -> int:
    from minillm.errors import MiniLLMError
    from minillm.formats.gguf import open_gguf
    from minillm.formats.imatrix import read_imatrix
    from minillm.formats.mixes import mix_named, types_for
    from minillm.formats.requantize import already_quantized, plan, requantize
    from minillm.model import zoo
    from minillm.terminal import bar

    mix = mix_named(args.type)
    if args.out is None and not args.dry_run:
        raise MiniLLMError("OUT is missing: the file to write, or --dry-run to see what it would be.")
    path = or_download(args.model, zoo.resolve)
    if path.is_dir():
        raise MiniLLMError(f"{path}: expected a .gguf file, found a folder.")
    imatrix = read_imatrix(args.imatrix) if args.imatrix else None
    with open_gguf(path) as source:
        types = types_for(source, mix, imatrix is not None)
        if args.dry_run:
            if imatrix is not None:
                imatrix.check(source)
            show(args, source, types, plan(source, types))
            return 0
        weights = sum(info.size for info in source.tensors.values())
        with bar(weights, "weights", what=args.type) as progress:
            done = requantize(source, args.out, args.type, imatrix, progress.update, args.threads)
        show(args, source, types, done)
        if rounded := already_quantized(source):
            print(f"minillm: {path} was in {rounded} already: what that rounding lost is not won back.", file=sys.stderr)
    return 0


def show(args: Namespace, source: "GGUFFile", types: "dict[str, BlockType]", done: "Requantized") -> None:
    """Print sizes in one line, and the type of every tensor where nothing was written, or the object."""
    if args.json:
        print_json(
            {
                "path": args.out, "type": args.type.lower(), "written": not args.dry_run, "weights": done.weights,
                "tensor_bytes_before": done.bytes_before, "tensor_bytes": done.bytes_after,
                "bits_per_weight": done.bits_per_weight,
                "types": {name: type_.name for name, type_ in types.items()},
            }
        )  # fmt: skip
        return
    if args.dry_run:
        rows = [
            [name if name.isprintable() else repr(name), " x ".join(map(str, info.shape)), info.type.name, types[name].name,
             f"{types[name].nbytes(info.shape):,}"]
            for name, info in source.tensors.items()
        ]  # fmt: skip
        print(table(["tensor", "shape", "from", "to", "bytes"], rows, "<><<>"))
    before, after = done.bytes_before, done.bytes_after
    print(f"{before / 1e6:,.1f} MB to {after / 1e6:,.1f} MB, {done.bits_per_weight:.2f} bits per weight"
          f"{'' if args.dry_run else f': {args.out}'}")  # fmt: skip
