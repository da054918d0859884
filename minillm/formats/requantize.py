"""Requantize a GGUF file: every tensor read, decoded, encoded anew and written, a few rows at a time.

The model is never in memory. A tensor's rows are decoded to float32 from the mapped file, encoded as the type that the mix chose
(mixes.py), and written; while one chunk of rows is written the next ones are made by other threads, as NumPy computes without
holding the interpreter. A tensor that has its type already is copied. Metadata are copied byte for byte, but for the two keys
that say how the file is quantized.

    mapped file ─▶ rows, float32 ─▶ blocks ─▶ draft of the file ─▶ (all of it written) rename

A file that is quantized already may be the source. The errors add up, so it is better to start from F16 or BF16 where there is
such a file: `already_quantized` says when there is something to warn of.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from minillm.cores import available_cores
from minillm.errors import GGUFError
from minillm.formats import blocks
from minillm.formats.blocks import BlockType
from minillm.formats.cursor import quoted
from minillm.formats.float_blocks import SCALED
from minillm.formats.gguf import GGUFFile, TensorInfo
from minillm.formats.gguf_write import Streamed, write_gguf
from minillm.formats.imatrix import ImportanceMatrix
from minillm.formats.mixes import is_matrix, mix_named, types_for
from minillm.formats.recode import not_finite

CHUNK = 1 << 18  # weights decoded and encoded at a time
MOST_THREADS = 64  # each has a chunk in memory, and one that is done
QUANTIZATION_VERSION = 2  # of ggml's block layouts, general.quantization_version; 1 was before May 2023
SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")  # what is written is one file


@dataclass(frozen=True)
class Requantized:
    """What became of a file: bytes of its tensors before and after, and how many weights they hold."""

    weights: int
    bytes_before: int
    bytes_after: int

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.bytes_after / self.weights


def requantize(
    source: GGUFFile, path: str | Path, mix: str, imatrix: ImportanceMatrix | None = None,
    progress: Callable[[int], object] = lambda weights: None, threads: int | None = None,
) -> Requantized:  # fmt: skip
    """Write `source` with the types of a mix to `path`; a file that was there is replaced.

    mix: a name of mixes.MIXES. imatrix: of the same model; types whose scales are searched follow it.
    progress: called with the number of weights done since the last call. threads: as many as cores where not given.

    Raises GGUFError, with the tensor's name, for weights that are NaN or infinite or beyond what a type holds, for tensors that
    cannot be decoded, and an imatrix that does not fit; and as write_gguf. Nothing is written then.
    """
    refuse_itself(source.path, path)
    types = types_for(source, mix_named(mix), imatrix is not None)
    if imatrix is not None:
        imatrix.check(source)
    for name, type_ in types.items():
        if type_ != source.tensors[name].type and not source.tensors[name].type.decodable:
            raise at(source, name, f"weights of type {source.tensors[name].type.name} are not decoded here.")
        if type_ != source.tensors[name].type and source.tensors[name].type.name in SCALED:
            raise at(source, name, f"{source.tensors[name].type.name} has its scales apart, and is not quantized anew here: "
                                   "start from the file that it was made of.")  # fmt: skip
    threads = min(threads or available_cores(), MOST_THREADS)
    with ThreadPoolExecutor(threads, "quantize") as pool:

        def made(info: TensorInfo) -> Iterator[np.ndarray]:
            importance = None if imatrix is None else imatrix.importance(info)
            work = partial(encode, source, info, types[info.name], importance)
            for rows, chunk in in_order(pool, threads + 1, work, spans(info)):
                yield chunk
                progress(rows * info.shape[-1])
            source.release_pages()

        tensors = {name: Streamed(types[name], info.shape, partial(made, info)) for name, info in source.tensors.items()}
        try:
            write_gguf(path, metadata_for(source, mix, imatrix), tensors)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return plan(source, types)


def plan(source: GGUFFile, types: dict[str, BlockType]) -> Requantized:
    """Count what a file takes now, and what it will take with these types."""
    infos = source.tensors.values()
    after = sum(types[info.name].nbytes(info.shape) for info in infos)
    return Requantized(sum(info.size for info in infos), sum(info.nbytes for info in infos), after)


def already_quantized(source: GGUFFile) -> str | None:
    """Name the types of matrices that were rounded to a few bits before, "Q4_1 and Q8_0"; None where all are floats."""
    rounded = {info.type.name for info in source.tensors.values() if is_matrix(info) and info.type.weights > 1}
    return " and ".join(sorted(rounded)) or None


def metadata_for(source: GGUFFile, mix: str, imatrix: ImportanceMatrix | None) -> dict[str, Any]:
    """Copy the metadata as they stand; say the new file type, and which imatrix was used, in llama.cpp's keys."""
    metadata: dict[str, Any] = {key: value for key, value in source.verbatim().items() if key not in SPLIT_KEYS}
    metadata |= {
        "general.quantization_version": np.uint32(QUANTIZATION_VERSION),
        "general.file_type": np.uint32(mix_named(mix).file_type),
    }
    if imatrix is not None:
        metadata |= imatrix.metadata()
    return metadata


def in_order(  # -> (rows, what was made of them), in the order of the spans
    pool: ThreadPoolExecutor, ahead: int, work: Callable[[int, int], np.ndarray], spans: Iterable[tuple[int, int]]
) -> Iterator[tuple[int, np.ndarray]]:
    """Let the threads of a pool work on so many spans at a time, and hand over the first when it is done."""
    waiting: deque = deque()
    for start, stop in spans:
        waiting.append((stop - start, pool.submit(work, start, stop)))
        if len(waiting) == ahead:
            rows, future = waiting.popleft()
            yield rows, future.result()
    yield from ((rows, future.result()) for rows, future in waiting)


def spans(info: TensorInfo) -> Iterator[tuple[int, int]]:
    """Cut a tensor into runs of rows of about CHUNK weights; none reaches over two experts, whose importances differ."""
    columns = info.shape[-1]
    rows, step = info.size // columns, max(1, CHUNK // columns)
    matrix = info.shape[-2] if len(info.shape) > 1 else rows
    for first in range(0, rows, matrix):
        yield from ((start, min(start + step, first + matrix)) for start in range(first, first + matrix, step))


def encode(  # -> (bytes of the rows,) uint8
    source: GGUFFile, info: TensorInfo, type_: BlockType, importance: np.ndarray | None, start: int, stop: int
) -> np.ndarray:
    """Decode rows start to stop and encode them as another type. Where the type stays they are copied, once seen to be finite."""
    columns = info.shape[-1]
    row_bytes = info.type.nbytes((1, columns))
    raw = source.raw(info.name)[start * row_bytes : stop * row_bytes]
    if not info.type.decodable:
        return raw
    rows = blocks.dequantize(raw, info.type, (stop - start, columns))
    if bad := not_finite(rows, range(start, stop)):
        raise at(source, info.name, bad)
    if type_ == info.type:
        return raw
    if importance is not None:
        importance = importance[start // info.shape[-2]]
    try:
        return blocks.quantize(rows, type_, importance)
    except GGUFError as error:
        raise at(source, info.name, str(error)) from None


def at(source: GGUFFile, name: str, what: str) -> GGUFError:
    return GGUFError(f"{source.path}: tensor {quoted(name)}: {what}")


def refuse_itself(source: str | Path, path: str | Path) -> None:
    """Refuse to write over the file that is read: what it holds would be gone."""
    try:
        same = os.path.samefile(source, path)
    except (OSError, ValueError):  # not there yet, or no name at all
        same = False
    if same:
        raise GGUFError(f"{path}: is the file that is read; give the new one another name.")
