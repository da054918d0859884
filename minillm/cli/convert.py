"""`minillm convert IN OUT`: a folder from a hub becomes a GGUF file, and a GGUF file such a folder.

    minillm convert FOLDER OUT.gguf            config.json, tokenizer.json and safetensors into one file; then: minillm quantize
    minillm convert IN.gguf FOLDER             what transformers and vLLM load, of any type that is decoded here

A GGUF file that is there is replaced, whole, at the end. A folder must be new or empty: nothing in it is removed.
"""

from argparse import Namespace

from minillm.cli.arguments import Parser
from minillm.cli.common import or_download, print_json

HELP = "a folder from a hub to a GGUF file, or a GGUF file to a folder that transformers and vLLM load"


def configure(parser: Parser) -> None:
    parser.add_argument("model", metavar="IN", help="a folder with config.json and safetensors; a .gguf file, or a model by name")
    parser.add_argument("out", metavar="OUT", help="the .gguf file, or the folder, to write")
    parser.add_argument("--type", metavar="T", help="of a GGUF file's matrices: f16, f32 or bf16 (default: f16)")
    parser.add_argument(
        "--dtype", metavar="T", help="of a folder's matrices: float32, float16 or bfloat16 (default: as the file's, else float16)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a line")


def run(args: Namespace) -> int:
    from minillm.errors import MiniLLMError
    from minillm.model import write_folder, write_gguf, zoo
    from minillm.model.load import read_config
    from minillm.terminal import bar

    path = or_download(args.model, zoo.resolve)
    wrong, right = ("dtype", "type") if path.is_dir() else ("type", "dtype")
    if getattr(args, wrong) is not None:
        kind, made = ("folder", "GGUF file") if path.is_dir() else ("file", "folder")
        raise MiniLLMError(f"--{wrong} belongs to the other direction: {path} is a {kind}, so OUT is a {made}, with --{right}.")
    config = read_config(path)
    with bar(config.parameters(), "weights", what=str(args.out)) as progress:
        if path.is_dir():
            made_of = (args.type or "f16").upper()
            out = write_gguf.convert(path, args.out, made_of, progress.update)
        else:
            made_of = args.dtype or write_folder.usual_dtype(path)
            out = write_folder.convert(path, args.out, True, made_of, progress.update)
    nbytes = sum(file.stat().st_size for file in (out.iterdir() if out.is_dir() else [out]))
    if args.json:
        kind = "folder" if out.is_dir() else "gguf"
        print_json({"path": str(out), "kind": kind, "dtype": made_of, "weights": config.parameters(), "file_bytes": nbytes})
    else:
        print(f"{out}: {config.parameters():,} weights, matrices in {made_of}, {nbytes / 1e6:,.1f} MB")
    return 0
