"""`minillm quantize IN OUT`: a GGUF file with fewer bits per weight, in little memory. There are two ways.

    --type q4_k_m                    a mix of llama.cpp's: most matrices Q4_K, the touchy ones Q6_K (formats/mixes.py)
    --method gptq --bits 3           a method on one grid for all layers' matrices; embedding and head in 8 bits, vectors float32
                                     (calibration/recipe.py). gptq and awq read some text first: --calibration FILE

--dry-run shows which tensor gets which type, and how large the file will be, and writes nothing.
"""

import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minillm.cli.arguments import Parser
from minillm.cli.common import or_download, print_json
from minillm.terminal import table

if TYPE_CHECKING:
    from minillm.calibration.recipe import Recipe
    from minillm.formats.blocks import BlockType
    from minillm.formats.gguf import GGUFFile
    from minillm.formats.requantize import Requantized

HELP = "write a GGUF file with fewer bits: a mix of types (--type q4_k_m), or a method on a grid (--method gptq --bits 4)"
OF_METHOD = {  # options that go with --method, and what they are where they are not given
    "bits": 4, "group": 64, "symmetric": False, "head_type": "q8_0", "act_order": False,
    "calibration": None, "context": 512, "chunks": 32,
}  # fmt: skip
OF_TEXT = ("calibration", "context", "chunks")


def configure(parser: Parser) -> None:
    parser.add_argument("model", metavar="IN", help="a .gguf file, best one in F16 or BF16, or a model by name")
    parser.add_argument("out", metavar="OUT", nargs="?", help="the new .gguf file")
    parser.add_argument("--type", metavar="T", help="a mix: q4_k_m, q8_0, iq4_nl, f16 …: a wrong one lists them")
    parser.add_argument("--imatrix", metavar="FILE", help="with --type: importance matrix of this model (minillm imatrix)")
    parser.add_argument("--method", metavar="M", help="rtn, hqq; gptq, awq, which need a text")
    parser.add_argument("--bits", type=int, metavar="N", help="with --method: 8, 4, 3 or 2 (default: 4)")
    parser.add_argument("--group", type=int, metavar="N", help="weights that share a scale: 32, 64 or 128 (default: 64)")
    parser.add_argument("--symmetric", action="store_true", default=None, help="a grid around 0, in place of one from min to max")
    parser.add_argument("--head-type", metavar="T", help="type of embedding and head: q8_0, f16, q6_k … (default: q8_0)")
    parser.add_argument("--calibration", metavar="FILE", help="gptq, awq: a text like what the model will see; UTF-8, .gz, .xz")
    parser.add_argument("--context", type=int, metavar="N", help="tokens of a piece of it (default: 512)")
    parser.add_argument("--chunks", type=int, metavar="N", help="pieces of it to read (default: 32)")
    parser.add_argument("--act-order", action="store_true", default=None, help="gptq: columns with large inputs first")
    parser.add_argument("--dry-run", action="store_true", help="show the type of each tensor, and write nothing")
    parser.add_argument("--threads", type=int, metavar="N", help="encode on so many threads (default: all cores)")
    parser.add_argument("--json", action="store_true", help="one JSON object: sizes, bits per weight, the type of each tensor")


def run(args: Namespace) -> int:
    from minillm.errors import MiniLLMError
    from minillm.formats.gguf import open_gguf
    from minillm.formats.requantize import already_quantized
    from minillm.model import zoo

    if (args.type is None) == (args.method is None):
        raise MiniLLMError("one of two ways is needed: --type q4_k_m, a mix of types, or --method gptq, a method on a grid.")
    check_options(args)
    if args.out is None and not args.dry_run:
        raise MiniLLMError("OUT is missing: the file to write, or --dry-run to see what it would be.")
    path = or_download(args.model, zoo.resolve)
    if path.is_dir():
        raise MiniLLMError(f"{path}: expected a .gguf file, found a folder.")
    with open_gguf(path) as source:
        by_type(args, source) if args.type else by_method(args, source)
        if not args.dry_run and (rounded := already_quantized(source)):
            print(f"minillm: {path} was in {rounded} already: what that rounding lost is not won back.", file=sys.stderr)
    return 0


def check_options(args: Namespace) -> None:
    """Refuse options of the other way, and fill in what was not given."""
    from minillm.errors import MiniLLMError

    for name, default in OF_METHOD.items():
        given = getattr(args, name) is not None
        option = "--" + name.replace("_", "-")
        if given and args.type:
            raise MiniLLMError(f"{option} goes with --method, found it with --type {args.type[:40]}.")
        if given and name in OF_TEXT and args.method.lower() in ("rtn", "hqq"):
            raise MiniLLMError(f"{option} goes with gptq and awq: {args.method} looks at no text.")
        if not given:
            setattr(args, name, default)
    if args.imatrix and args.method:
        raise MiniLLMError("--imatrix goes with --type; methods learn from a text: --calibration FILE.")
    for name in ("context", "chunks"):
        if getattr(args, name) < 1:
            raise MiniLLMError(f"--{name} must be at least 1, found {getattr(args, name)}.")


def by_type(args: Namespace, source: "GGUFFile") -> None:
    """Write a mix of types."""
    from minillm.formats.imatrix import read_imatrix
    from minillm.formats.mixes import mix_named, types_for
    from minillm.formats.requantize import plan, requantize
    from minillm.terminal import bar

    mix = mix_named(args.type)
    imatrix = read_imatrix(args.imatrix) if args.imatrix else None
    types = types_for(source, mix, imatrix is not None)
    if args.dry_run:
        if imatrix is not None:
            imatrix.check(source)
        show(args, source, types, plan(source, types), {"type": args.type.lower()})
        return
    with bar(weights_of(source), "weights", what=args.type) as progress:
        done = requantize(source, args.out, args.type, imatrix, progress.update, args.threads)
    show(args, source, types, done, {"type": args.type.lower()})


def by_method(args: Namespace, source: "GGUFFile") -> None:
    """Write a method's codes, all layers on one grid."""
    from minillm.calibration.quantize_file import quantize_file
    from minillm.calibration.recipe import Recipe, types_with
    from minillm.errors import MiniLLMError
    from minillm.formats.requantize import plan
    from minillm.quantization.affine import Grid
    from minillm.terminal import bar

    text = Path(args.calibration).name if args.calibration else ""
    grid = Grid(args.bits, args.group, args.symmetric)
    recipe = Recipe(args.method.lower(), grid, args.head_type.upper(), args.act_order, text)
    if recipe.calibrated and not args.calibration and not args.dry_run:
        raise MiniLLMError(f"{recipe.method} learns from a text what matrices are fed: --calibration FILE is missing.")
    types = types_with(recipe, source)
    said: dict[str, Any] = {"method": recipe.method, "bits": args.bits, "group": args.group, "symmetric": args.symmetric}
    if not args.dry_run:
        chunks = calibration_chunks(args, source, recipe) if recipe.calibrated else []
        with bar(weights_of(source), "weights", what=f"{recipe.method}, {args.bits} bits") as progress:
            errors = quantize_file(source, args.out, recipe, chunks, progress.update)
        if errors:
            said |= {"calibration_tokens": sum(map(len, chunks)), "output_error": errors}
    show(args, source, types, plan(source, types), said)


def calibration_chunks(args: Namespace, source: "GGUFFile", recipe: "Recipe") -> Any:  # -> (chunks, context) int64
    """Read the text, and cut it into chunks of token ids."""
    from minillm.calibration.collect import chunks_of
    from minillm.formats.requantize import refuse_itself
    from minillm.model.tokenizer import Tokenizer
    from minillm.model.weights import config_from_gguf
    from minillm.training.data import read_corpus

    refuse_itself(args.calibration, args.out)
    text, tokenizer = read_corpus(args.calibration), Tokenizer.from_gguf(source.metadata)
    return chunks_of(tokenizer, text, min(args.context, config_from_gguf(source).context_length), args.chunks)


def weights_of(source: "GGUFFile") -> int:
    return sum(info.size for info in source.tensors.values())


def show(
    args: Namespace, source: "GGUFFile", types: "dict[str, BlockType]", done: "Requantized", said: dict[str, Any]
) -> None:
    """Print sizes in one line, and the type of every tensor where nothing was written, or the object."""
    if args.json:
        print_json(
            {
                "path": args.out, **said, "written": not args.dry_run, "weights": done.weights,
                "tensor_bytes_before": done.bytes_before, "tensor_bytes": done.bytes_after,
                "bits_per_weight": done.bits_per_weight,
                "types": {name: type_.name for name, type_ in types.items()},
            }
        )  # fmt: skip
        return
    if args.dry_run:
        rows = [
            [name if name.isprintable() else repr(name), " x ".join(map(str, source.tensors[name].shape)),
             source.tensors[name].type.name, kind.name, f"{kind.nbytes(source.tensors[name].shape):,}"]
            for name, kind in types.items()
        ]  # fmt: skip
        print(table(["tensor", "shape", "from", "to", "bytes"], rows, "<><<>"))
    before, after = done.bytes_before, done.bytes_after
    print(f"{before / 1e6:,.1f} MB to {after / 1e6:,.1f} MB, {done.bits_per_weight:.2f} bits per weight"
          f"{'' if args.dry_run else f': {args.out}'}")  # fmt: skip
    if errors := said.get("output_error"):
        worst = max(errors, key=errors.__getitem__)
        mean = sum(errors.values()) / len(errors)
        print(f"layer error ‖(W - Ŵ)X‖² / ‖WX‖²: {100 * mean:.3g}% on average, most in {worst}, {100 * errors[worst]:.3g}%")
