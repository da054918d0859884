"""The importance matrix: how much each input column of a matrix matters, measured on text.

A product sums w · x over the columns. An error in a weight is multiplied by its column's input, so the squared error of a layer's
output, summed over a text, weighs each column by the mean square of its inputs:

    E[(Σ_j Δw_j x_j)²] ≈ Σ_j Δw_j² · E[x_j²]                          as if the columns' inputs did not go together

It is one number a column, the diagonal of what GPTQ uses whole. llama.cpp's `llama-imatrix` collects it ("imatrix": importance
matrix), and files of it are shared beside models. There are two formats: a GGUF file that holds the sum of the squares and the
number of rows for each matrix, and an older one, .dat, with means times the number of chunks:

    NAME.in_sum2: (matrices, columns) F32, NAME.counts: (matrices, 1) F32;  imatrix.datasets, chunk_count, chunk_size
    | n: i32 |  n x | length: i32 | name | chunks: i32 | columns: i32 | mean · chunks: f32 … |  chunks: i32 | length: i32 | text |

More matrices than one: the experts of a layer, which see different tokens. Source: llama.cpp, tools/imatrix/imatrix.cpp.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minillm.errors import GGUFError
from minillm.files import replacing
from minillm.formats.cursor import quoted
from minillm.formats.expect import Fields
from minillm.formats.gguf import GGUFFile, TensorInfo, open_gguf
from minillm.formats.gguf_read import map_file
from minillm.formats.gguf_write import write_gguf
from minillm.formats.mixes import is_matrix

SUM, COUNT = ".in_sum2", ".counts"
DATASETS, CHUNKS, SIZE = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"


@dataclass
class ImportanceMatrix:
    """Sums of squares of the inputs of each matrix, by GGUF's names.

    sums: {name: (matrices, columns) float32}. counts: {name: (matrices,) rows that were summed}. chunks: of text, of
    chunk_size tokens. datasets: names of the texts. path: where it was read from.
    """

    sums: dict[str, np.ndarray]
    counts: dict[str, np.ndarray]
    chunks: int = 0
    chunk_size: int = 0
    datasets: list[str] = field(default_factory=list)
    path: Path = Path("imatrix")

    def importance(self, info: TensorInfo) -> np.ndarray | None:  # -> (matrices, columns) float32, or None
        """Compute the mean square of each column's input. An expert that no token met counts all its columns alike."""
        if info.name not in self.sums:
            return None
        sums, counts = self.sums[info.name], self.counts[info.name][:, None]
        means = np.where(counts > 0, sums / np.maximum(counts, 1), np.float32(1)).astype(np.float32)
        return np.broadcast_to(means, (matrices_of(info), means.shape[1]))

    def check(self, model: GGUFFile) -> None:
        """Raise GGUFError unless this was collected on such a model: matrices of the same names and widths."""
        for name, sums in self.sums.items():
            info = model.tensors.get(name)
            if info is None:
                raise self.alien(model, f"it has {quoted(name)}, the model does not")
            if sums.shape[1] != info.shape[-1] or sums.shape[0] not in (1, matrices_of(info)):
                found = f"{sums.shape[0]} x {sums.shape[1]:,}" if sums.shape[0] > 1 else f"{sums.shape[1]:,}"
                raise self.alien(model, f"{quoted(name)} has {info.shape[-1]:,} columns, here it has {found}")
        layers = [name for name, info in model.tensors.items() if name.startswith("blk.") and is_matrix(info)]
        if missing := next((name for name in layers if name not in self.sums), None):
            raise self.alien(model, f"{quoted(missing)} is not in it")

    def alien(self, model: GGUFFile, why: str) -> GGUFError:
        advice = "Collect one of this model: minillm imatrix."
        return GGUFError(f"{self.path}: is an importance matrix of another model than {model.path}: {why}. {advice}")

    def metadata(self) -> dict[str, Any]:
        """What a file that was quantized with it says of it, in llama.cpp's keys."""
        dataset = {"quantize.imatrix.dataset": self.datasets[0]} if self.datasets else {}
        counts = {"quantize.imatrix.entries_count": len(self.sums), "quantize.imatrix.chunks_count": self.chunks}
        return {"quantize.imatrix.file": self.path.name, **dataset, **counts}


def matrices_of(info: TensorInfo) -> int:
    return int(np.prod(info.shape[:-2]))


def read_imatrix(path: str | Path) -> ImportanceMatrix:
    """Read an importance matrix of either format. GGUFError for a file that is none, or has sums that are no sums of squares."""
    path = Path(path)
    if bytes(map_file(path)[:4]) == b"GGUF":
        with open_gguf(path) as gguf:
            found = from_gguf(gguf)
    else:
        found = from_legacy(path)
    for name, sums in found.sums.items():
        bad = ~(np.isfinite(sums) & (sums >= 0))
        if bad.any():
            raise GGUFError(f"{path}: {quoted(name)}: expected sums of squares, found {sums[bad][0]} among them.")
    if not found.sums:
        raise GGUFError(f"{path}: expected an importance matrix, found one without any matrix.")
    return found


def from_gguf(gguf: GGUFFile) -> ImportanceMatrix:
    keys = Fields(gguf.metadata, f"{gguf.path}: metadata ", GGUFError)
    if keys.text("general.type", "none") != "imatrix":
        raise GGUFError(f"{gguf.path}: expected an importance matrix (general.type 'imatrix'), found another GGUF file.")
    texts = gguf.metadata.get(DATASETS, [])
    found = ImportanceMatrix({}, {}, keys.whole(CHUNKS, 0), keys.whole(SIZE, 0), path=gguf.path)
    found.datasets = [text for text in texts if isinstance(text, str)] if isinstance(texts, list) else []
    for name in (name.removesuffix(SUM) for name in gguf.tensors if name.endswith(SUM)):
        sums, counts = gguf.tensor(name + SUM), gguf.tensor(name + COUNT)
        if sums.type.name != "F32" or counts.type.name != "F32" or sums.size % counts.size:
            shapes = f"{sums.type.name} {sums.shape} and {counts.type.name} {counts.shape}"
            raise GGUFError(f"{gguf.path}: {quoted(name)}: expected sums and counts in F32 that fit each other, found {shapes}.")
        found.sums[name] = gguf.dequantize(name + SUM).reshape(counts.size, -1)
        found.counts[name] = gguf.dequantize(name + COUNT).reshape(-1)
    return found


def from_legacy(path: Path) -> ImportanceMatrix:
    """Read a .dat file. It has no magic, so whatever is none shows in a count or a length that the file cannot hold."""
    data, position = map_file(path), 0

    def number(what: str, least: int, most: int) -> int:
        nonlocal position
        if position + 4 > len(data):
            raise GGUFError(f"{path}: expected an importance matrix, found a file that ends at {len(data):,}, within {what}.")
        (value,) = struct.unpack_from("<i", data, position)
        if not least <= value <= most:
            raise GGUFError(
                f"{path}: expected an importance matrix, found {value:,} at offset {position:,}; {what} is {least:,} to {most:,}."
            )
        position += 4
        return value

    def left() -> int:
        return len(data) - position - 4

    def taken(nbytes: int) -> bytes:
        nonlocal position
        position += nbytes
        return data[position - nbytes : position]

    found = ImportanceMatrix({}, {}, path=path)
    for _ in range(number("the number of matrices", 1, left() // 16)):
        name = taken(number("the length of a name", 1, left())).decode(errors="replace")
        chunks = number("a number of chunks", 0, 2**31 - 1)
        values = np.frombuffer(taken(4 * number("a number of columns", 1, left() // 4)), "<f4")
        found.sums[name] = values.reshape(1, -1).astype(np.float32)
        found.counts[name] = np.array([max(1, chunks)], np.float32)
    if position < len(data):  # files of early 2024 end here
        found.chunks = number("the number of chunks", 0, 2**31 - 1)
        if text := taken(number("the length of the text's name", 0, left())).decode(errors="replace"):
            found.datasets = [text]
    return found


def write_imatrix(path: str | Path, matrix: ImportanceMatrix) -> None:
    """Write an importance matrix: the older format where the name ends in .dat, else GGUF. Both are read by llama.cpp."""
    if str(path).endswith(".dat"):
        with replacing(path, GGUFError) as file:
            file.write(legacy_bytes(matrix))
        return
    tensors: dict[str, np.ndarray] = {}
    for name in sorted(matrix.sums):
        sums, counts = np.asarray(matrix.sums[name], np.float32), np.asarray(matrix.counts[name], np.float32)
        tensors[name + SUM] = sums if len(sums) > 1 else sums[0]  # ggml drops dimensions of 1 at the end
        tensors[name + COUNT] = counts[:, None] if len(counts) > 1 else counts
    metadata: Mapping[str, Any] = {
        "general.type": "imatrix", DATASETS: matrix.datasets, CHUNKS: matrix.chunks, SIZE: matrix.chunk_size,
    }  # fmt: skip
    write_gguf(path, metadata, tensors)


def legacy_bytes(matrix: ImportanceMatrix) -> bytes:
    parts = [struct.pack("<i", len(matrix.sums))]
    for name, sums in sorted(matrix.sums.items()):
        chunks, counts = max(1, matrix.chunks), matrix.counts[name][:, None]
        values = np.where(counts > 0, sums / np.maximum(counts, 1), 1) * chunks
        text = name.encode()
        parts += [struct.pack("<i", len(text)), text, struct.pack("<ii", chunks, values.size), values.astype("<f4").tobytes()]
    text = (matrix.datasets or [""])[-1].encode()
    return b"".join([*parts, struct.pack("<ii", matrix.chunks, len(text)), text])
