"""`minillm inspect FILE.gguf`: what is in a model file, without loading the model; `inspect NAME`: what such a model takes.

The bits per weight that a file's name promises ("Q4_1": 5) are those of its matrices' blocks; norms and the embedding are
often stored wider. The table by type shows where the bytes went, and the average is over every weight.
"""

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minillm.cli.arguments import Parser
from minillm.cli.common import print_json
from minillm.terminal import table

if TYPE_CHECKING:
    from minillm.formats.gguf import GGUFFile

HELP = "what a GGUF file holds; or, of a model's name (llama-3-70b), what it takes and what fits where"
FIRST = 8  # elements shown of an array that is longer than twice that


def configure(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE|NAME", help="a .gguf file, a model by name, or a shape: llama-3-8b, qwen3-8b …")
    parser.add_argument("--context", type=int, metavar="N", help="what it takes, with the KV cache of so many tokens")
    parser.add_argument("--json", action="store_true", help="one JSON object; long arrays as count and first elements")


def run(args: Namespace) -> int:
    from minillm.cli import sizing

    if args.context is None and (path := model_file(args.file)):
        return inspect_file(args, path)
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
    from minillm.formats.gguf import open_gguf

    with open_gguf(path) as gguf:
        facts = summary(gguf)
    if args.json:
        print_json(facts)
    else:
        print("\n".join(report(facts)))
    return 0


def summary(gguf: "GGUFFile") -> dict:  # fit for JSON
    """Collect everything that is shown, as plain values."""
    tensors = gguf.tensors.values()
    weights, tensor_bytes = sum(t.size for t in tensors), sum(t.nbytes for t in tensors)
    types: dict[str, dict] = {}
    for tensor in tensors:
        row = types.setdefault(tensor.type.name, {"tensors": 0, "weights": 0, "bytes": 0})
        row["tensors"] += 1
        row["weights"] += tensor.size
        row["bytes"] += tensor.nbytes
        row["bits_per_weight"] = tensor.type.bits_per_weight
    return {
        "path": str(gguf.path),
        "version": gguf.version,
        "architecture": plain(gguf.metadata.get("general.architecture")),
        "file_bytes": gguf.nbytes,
        "alignment_bytes": gguf.alignment,
        "weights": weights,
        "tensor_bytes": tensor_bytes,
        "bits_per_weight": 8 * tensor_bytes / weights if weights else None,
        "types": types,
        "metadata": {key: plain(value) for key, value in gguf.metadata.items()},
        "tensors": [
            {"name": t.name, "shape": t.shape, "type": t.type.name, "offset_bytes": t.offset, "bytes": t.nbytes} for t in tensors
        ],
    }


def plain(value: Any) -> Any:
    """Convert a metadata value for JSON: which has no NaN and no infinity, and no use for 49,152 tokens."""
    if isinstance(value, float) and not float("-inf") < value < float("inf"):
        return str(value)
    if isinstance(value, (str, int, float, type(None))):
        return value
    if len(value) > 2 * FIRST:
        return {"count": len(value), "first": plain(value[:FIRST])}
    return [plain(item) for item in (value if isinstance(value, list) else value.tolist())]


def report(facts: dict) -> Iterator[str]:
    """Format the summary for people. Names and strings are untrusted: they are quoted, so no control code gets through."""
    bits = "" if facts["bits_per_weight"] is None else f", {facts['bits_per_weight']:.2f} bits per weight"
    yield f"{facts['path']}: GGUF version {facts['version']}, architecture {abbreviated(facts['architecture'])}"
    yield f"{facts['file_bytes']:,} bytes, {facts['weights']:,} weights in {len(facts['tensors']):,} tensors{bits}"
    types = sorted(facts["types"].items(), key=lambda item: -item[1]["bytes"])
    rows = [
        [name, f"{row['tensors']:,}", f"{row['weights']:,}", f"{row['bytes']:,}", f"{row['bits_per_weight']:.4g}"]
        for name, row in types
    ]
    yield "\n" + table(["type", "tensors", "weights", "bytes", "bits per weight"], rows)
    yield "\nmetadata"
    for key, value in facts["metadata"].items():
        yield f"  {unquoted(key)} = {abbreviated(value)}"
    rows = [
        [f"{t['offset_bytes']:,}", f"{t['bytes']:,}", t["type"], " x ".join(map(str, t["shape"])), unquoted(t["name"])]
        for t in facts["tensors"]
    ]
    yield "\n" + table(["tensors: offset", "bytes", "type", "shape", "name"], rows, ">><><")


def abbreviated(value: Any, limit: int = 100) -> str:
    """Abbreviate a value of the metadata to one line, with how much of it there is."""
    if isinstance(value, dict):
        text = f"{repr(value['first'])[:-1]}, ...]"
        return f"{text if len(text) <= limit else text[: limit - 3] + '...'} ({value['count']:,} elements)"
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}... ({len(text):,} characters)"


def unquoted(name: str) -> str:
    return name if name.isprintable() else repr(name)
