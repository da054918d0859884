"""The contents of a GGUF file, as facts for JSON and as text: `minillm inspect FILE`.

The bits per weight that a file's name promises ("Q4_1": 5) are those of its matrices' blocks; norms and the embedding are
often stored wider. The table by type shows where the bytes went, and the average is over every weight.

A file comes from a stranger. Names and strings are quoted and cut, so that neither a control code nor a string of a hundred
megabytes reaches the terminal; a chat template is shown as the text that it is, and never rendered.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from minillm.terminal import table

if TYPE_CHECKING:
    from minillm.formats.anatomy import Walk
    from minillm.formats.gguf import GGUFFile
    from minillm.formats.gguf_read import TensorInfo

FIRST = 8  # elements shown of an array that is longer than twice that
LONGEST = 65_536  # characters of a string that JSON gets whole, longer than any chat template in use
LONGEST_NAME = 1000  # characters of a name; ggml takes 63


def summary(gguf: "GGUFFile") -> dict[str, Any]:  # fit for JSON
    """Collect everything that is shown, as plain values."""
    from minillm.formats.gguf_layout import bytes_by_role
    from minillm.model.runs import runs

    tensors = gguf.tensors.values()
    weights, tensor_bytes = sum(t.size for t in tensors), sum(t.nbytes for t in tensors)
    return {
        "path": str(gguf.path),
        "version": gguf.version,
        "architecture": plain(gguf.metadata.get("general.architecture")),
        "file_bytes": gguf.nbytes,
        "alignment_bytes": gguf.alignment,
        "weights": weights,
        "tensor_bytes": tensor_bytes,
        "bits_per_weight": 8 * tensor_bytes / weights if weights else None,
        "file_bits_per_weight": 8 * gguf.nbytes / weights if weights else None,
        "parts": [sections_of(gguf, number) for number in range(len(gguf.parts))],
        "types": types_of(tensors),
        "roles": bytes_by_role(gguf),
        "runs": runs(gguf),
        "metadata": {cut(key): plain(value) for key, value in gguf.metadata.items()},
        "tensors": [
            {"name": cut(t.name), "shape": t.shape, "type": t.type.name, "part": t.part, "offset_bytes": t.offset,
             "bytes": t.nbytes}
            for t in tensors
        ],
    }  # fmt: skip


def types_of(tensors: "Iterable[TensorInfo]") -> dict[str, dict[str, Any]]:
    """Add up tensors, weights and bytes by type; of an unknown type the bits per weight are the most that it can have."""
    types: dict[str, dict[str, Any]] = {}
    for tensor in tensors:
        row = types.setdefault(tensor.type.name, {"tensors": 0, "weights": 0, "bytes": 0, "known": tensor.type.known})
        row["tensors"] += 1
        row["weights"] += tensor.size
        row["bytes"] += tensor.nbytes
        row["bits_per_weight"] = tensor.type.bits_per_weight if tensor.type.known else 8 * row["bytes"] / row["weights"]
    return types


def sections_of(gguf: "GGUFFile", number: int) -> dict[str, Any]:
    """Measure the sections of a file, or of a part."""
    from minillm.formats.gguf_layout import of_part

    part, found = gguf.parts[number], {"header": 0, "key": 0, "table": 0, "padding": 0, "tensor": 0}
    for section in of_part(number, part):
        found[section.kind] += section.nbytes
    names = {"key": "metadata_bytes", "table": "tensor_table_bytes", "tensor": "tensor_bytes"}
    sizes = {names.get(kind, f"{kind}_bytes"): nbytes for kind, nbytes in found.items()}
    return {"path": str(part.path), "bytes": part.nbytes, "tensors": len(part.tensors), "data_offset_bytes": part.data, **sizes}


def of_block(found: "Walk") -> dict[str, Any]:  # fit for JSON
    """Put one block, taken apart, as plain values."""
    return {
        "tensor": cut(found.name),
        "type": found.type.name,
        "index": found.index,
        "blocks": found.blocks,
        "row": found.row,
        "columns": found.columns,
        "path": str(found.file),
        "offset_bytes": found.offset,
        "formula": found.formula,
        "fields": [
            {"name": field.name, "offset_bytes": field.offset, "bytes": field.bytes, "says": field.says, "hex": raw.hex(),
             "values": {name: [plain(v) for v in numbers.tolist()] for name, numbers in values.items()}}
            for field, raw, values in found.fields
        ],
        "weights": [plain(w) for w in found.weights.tolist()],
    }  # fmt: skip


def plain(value: Any) -> Any:
    """Convert a metadata value for JSON: which has no NaN and no infinity, and no use for 49,152 tokens."""
    if isinstance(value, float) and not float("-inf") < value < float("inf"):
        return str(value)
    if isinstance(value, str) and len(value) > LONGEST:
        return {"count": len(value), "first": value[:LONGEST_NAME]}
    if isinstance(value, (str, int, float, type(None))):
        return value
    if len(value) > 2 * FIRST:
        return {"count": len(value), "first": plain(value[:FIRST])}
    return [plain(item) for item in (value if isinstance(value, list) else value.tolist())]


def cut(name: str, limit: int = LONGEST_NAME) -> str:
    return name if len(name) <= limit else f"{name[: limit - 1]}…"


def report(facts: dict) -> Iterator[str]:
    """Format the summary for people. Names and strings are untrusted: they are quoted, so no control code gets through."""
    files = facts["parts"]
    several = f", in {len(files):,} files" if files[1:] else ""
    yield f"{facts['path']}: GGUF version {facts['version']}, architecture {abbreviated(facts['architecture'])}{several}"
    bits, whole = facts["bits_per_weight"], facts["file_bits_per_weight"]
    bits = "" if bits is None else f": {bits:.2f} bits per weight, {whole:.2f} with all else in the file"
    yield f"{facts['file_bytes']:,} bytes, {facts['weights']:,} weights in {len(facts['tensors']):,} tensors{bits}"
    types = sorted(facts["types"].items(), key=lambda item: -item[1]["bytes"])
    rows = [[name, f"{r['tensors']:,}", f"{r['weights']:,}", f"{r['bytes']:,}", width(r)] for name, r in types]
    yield "\n" + table(["type", "tensors", "weights", "bytes", "bits per weight"], rows)
    rows = [[role, f"{nbytes:,}", f"{nbytes / facts['file_bytes']:.1%}"] for role, nbytes in roles(facts)]
    yield "\n" + table(["part of the model", "bytes", "of the file"], rows)
    yield "\nruns"
    yield from (f"  {line}" for line in what_runs(facts["runs"]))
    yield "\nmetadata"
    for key, value in facts["metadata"].items():
        yield f"  {unquoted(key)} = {abbreviated(value)}"
    if files[1:]:
        rows = [[f"{i}", f"{file['bytes']:,}", f"{file['tensors']:,}", unquoted(file["path"])] for i, file in enumerate(files, 1)]
        yield "\n" + table(["file", "bytes", "tensors", "path"], rows, ">>><")
    rows = [
        [f"{t['part'] + 1}: " * bool(files[1:]) + f"{t['offset_bytes']:,}", f"{t['bytes']:,}", t["type"],
         " x ".join(map(str, t["shape"])), unquoted(t["name"])]
        for t in facts["tensors"]
    ]  # fmt: skip
    yield "\n" + table([f"tensors: {'file, ' * bool(files[1:])}offset", "bytes", "type", "shape", "name"], rows, ">><><")


def roles(facts: dict) -> list[tuple[str, int]]:
    """List where the bytes of the file go: roles of tensors, then what comes before the data, then padding."""
    before = sum(p[key] for p in facts["parts"] for key in ("header_bytes", "metadata_bytes", "tensor_table_bytes"))
    padding = sum(p["padding_bytes"] for p in facts["parts"])
    return [*facts["roles"].items(), ("header, metadata, table", before), ("padding", padding)]


def width(row: dict) -> str:  # of a row of types
    return f"{row['bits_per_weight']:.4g}" if row["known"] else f"at most {row['bits_per_weight']:.4g}"


def what_runs(found: dict) -> Iterator[str]:
    """Format model.runs.runs for people."""
    for part in ("architecture", "tokenizer"):
        names = [unquoted(found[part][key]) for key in ("name", "model", "pre") if found[part].get(key)]
        why = found[part]["why"]
        yield f"{part} {', '.join(names) or 'not named'}: {'supported' if why is None else f'no: {unquoted(why)}'}"
    for name, row in found["types"].items():
        if row["numpy"] is None:
            yield f"{name}: not decoded here, {row['tensors']:,} tensors, such as {unquoted(row['first'])}"
        else:
            yield f"{name}: {row['numba']} on numba, {row['numpy']} on numpy"
    yield "the model runs" if found["runs"] else "the model does not run here"


def abbreviated(value: Any, limit: int = 100) -> str:
    """Abbreviate a value of the metadata to one line, with how much of it there is."""
    if isinstance(value, dict):
        text = repr(value["first"])
        what = "characters" if isinstance(value["first"], str) else "elements"
        text = text if what == "characters" else f"{text[:-1]}, ...]"
        return f"{text if len(text) <= limit else text[: limit - 3] + '...'} ({value['count']:,} {what})"
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}... ({len(text):,} characters)"


def unquoted(name: str, limit: int = 200) -> str:
    name = cut(name, limit)
    return name if name.isprintable() else repr(name)
