"""A tensor in another type, and with its rows in another order, a few rows at a time.

Formats differ in how weights are stored and in the order of some rows; what the numbers are is the same. Rows are independent in
every type, as blocks run along them, so a change of order is a choice of rows, packed as they are, and a change of type is decode
and encode. Nothing of a tensor is in memory but the rows at hand, however large it is.

    recode(stored, BLOCK_TYPES["F16"], order)      a gguf_write.Streamed: its chunks are made as they are written
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from minillm.errors import GGUFError, ModelError
from minillm.formats.blocks import BlockType, dequantize, quantize
from minillm.formats.float_blocks import SCALED
from minillm.formats.gguf_write import Streamed

CHUNK = 1 << 19  # weights at a time


class Source(NamedTuple):
    """A tensor as a file has it. what: how messages call it; done: called when all of it has been read."""

    raw: np.ndarray
    type: BlockType
    shape: tuple[int, ...]
    what: str
    done: Callable[[], object] = lambda: None


def recode(
    source: Source, target: BlockType, order: np.ndarray | None = None, progress: Callable[[int], Any] = lambda weights: None
) -> Streamed:
    """Store a tensor as another type. order: which row of the source comes where; None: as they are.

    progress: called with the number of weights done since the last call. What chunks() raises is a ModelError with the tensor's
    name: weights that are NaN or infinite, or beyond what the type holds.
    """
    if source.type.name in SCALED and target != source.type:
        raise ModelError(f"{source.what}: {source.type.name} has its scales apart, and is not recoded: start from another file.")
    return Streamed(target, source.shape, partial(chunks, source, target, order, progress))


def chunks(  # -> bytes of some rows after another
    source: Source, target: BlockType, order: np.ndarray | None, progress: Callable[[int], Any]
) -> Iterator[np.ndarray]:
    columns = 1 if len(source.shape) == 1 and source.type.weights == 1 else source.shape[-1]  # of a vector, each number is a row
    table = source.raw.reshape(-1, source.type.nbytes((1, columns)))
    step = max(1, CHUNK // columns)
    for start in range(0, len(table), step):
        rows = np.arange(start, min(start + step, len(table))) if order is None else order[start : start + step]
        packed = table[start : start + step] if order is None else table[rows]
        yield encoded(source, packed, rows, columns, target)
        progress(len(rows) * columns)
    source.done()


def encoded(source: Source, packed: np.ndarray, rows: np.ndarray, columns: int, target: BlockType) -> np.ndarray:
    """Encode some rows: (n, bytes) uint8 -> (bytes,) uint8. Rows that stay are copied, once seen to be finite."""
    weights = dequantize(np.ascontiguousarray(packed).reshape(-1), source.type, (len(rows), columns))
    if bad := not_finite(weights, rows):
        raise ModelError(f"{source.what}: {bad}")
    if target == source.type:
        return packed
    try:
        return quantize(weights, target)
    except GGUFError as error:
        raise ModelError(f"{source.what}: {error} F32 and BF16 hold more.") from None


def not_finite(weights: np.ndarray, rows: Sequence[int] | np.ndarray) -> str | None:
    """Say where the first weight is that is NaN or infinite; None where there is none. rows: their numbers in the tensor."""
    finite = np.isfinite(weights)
    if finite.all():
        return None
    row, column = np.argwhere(~finite)[0]
    found = f"{weights[row, column]} in row {rows[row]:,}, column {column:,}"
    return f"expected finite weights, found {found}, the first of {(~finite).sum():,} in these rows."
