"""The corpus as numbers on disk, and batches of it in an order that can be taken up again.

Text becomes token ids once; the file of ids is mapped, so a corpus larger than memory trains too. An epoch cuts it into
windows of the batch's length, starting at a place of its own, and shuffles them: each is seen once. Places and order follow
from the seed and the epoch's number, so two integers say where a run stands, and nothing is repeated or left out after it.

    | "minillmT" | version, bytes an id, vocabulary, 0 | count | sha256 of the ids | ids, little endian ... |
      8            4 × 4                               8       32
"""

import gzip
import hashlib
import lzma
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray as Array

from minillm.errors import TrainingError
from minillm.files import replacing

HEADER = struct.Struct("<8s4IQ32s")
MAGIC, VERSION = b"minillmT", 1
OPENERS: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open}


def read_corpus(path: str | Path) -> str:
    """Read a text file, UTF-8; one that ends in .gz or .xz is unpacked. TrainingError: missing, damaged, empty, not UTF-8."""
    try:
        with OPENERS.get(Path(path).suffix, open)(path, "rb") as file:
            data = file.read()
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise TrainingError(f"{path}: the corpus cannot be read: {error}.") from None
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")  # an editor's byte-order mark is no part of the first story
    except UnicodeDecodeError as error:
        raise TrainingError(
            f"{path}: the corpus must be UTF-8, but byte {error.start:,} of {len(data):,} is 0x{data[error.start]:02x} "
            f"({error.reason})."
        ) from None
    if not text.strip():
        raise TrainingError(f"{path}: the corpus must hold at least 1 character of text, found 0 in {len(data):,} bytes.")
    return text.replace("\r\n", "\n")


def split(text: str, separator: str, held_out: float) -> tuple[list[str], list[str]]:  # -> ([document], [document])
    """Split documents into those to train on, and the share `held_out` to evaluate on.

    Which side a document is on follows from its own text: equal ones never stand on both, and a corpus that grows moves none.
    """
    sides: tuple[list[str], list[str]] = [], []
    for document in map(str.strip, text.split(separator)):
        if document:
            sides[zlib.crc32(document.encode()) < held_out * 2**32].append(document)
    return sides


def write_tokens(path: str | Path, documents: Iterable[Sequence[int]], vocab_size: int) -> "TokenFile":
    """Write token ids, one document after another. uint16 where the vocabulary fits. TrainingError: an id outside it."""
    dtype = np.dtype("<u2" if vocab_size <= 2**16 else "<u4")
    digest, count = hashlib.sha256(), 0
    with replacing(path, TrainingError) as file:
        file.write(bytes(HEADER.size))
        for document in documents:
            ids = np.asarray(document, np.int64)
            if ids.size and not 0 <= ids.min() <= ids.max() < vocab_size:
                wrong = ids[(ids < 0) | (ids >= vocab_size)][0]
                raise TrainingError(f"{path}: token id {wrong:,} is outside the vocabulary of {vocab_size:,}.")
            data = ids.astype(dtype).tobytes()
            file.write(data)
            digest.update(data)
            count += ids.size
        file.seek(0)
        file.write(HEADER.pack(MAGIC, VERSION, dtype.itemsize, vocab_size, 0, count, digest.digest()))
    return open_tokens(path)


@dataclass(frozen=True, slots=True)
class TokenFile:
    """A mapped file of token ids: the ids, (count,) of uint16 or uint32, how many there could be, and their sha256."""

    ids: np.ndarray
    vocab_size: int
    sha256: str


def open_tokens(path: str | Path) -> TokenFile:
    """Map a file of token ids, once its header, its size and its bytes agree. TrainingError says what does not."""
    try:
        size = Path(path).stat().st_size
        with open(path, "rb") as file:
            head = file.read(HEADER.size)
    except OSError as error:
        raise TrainingError(f"{path}: the token ids cannot be read: {error}.") from None
    if len(head) < HEADER.size:
        raise TrainingError(f"{path}: a file of token ids opens with {HEADER.size} bytes of header, found {len(head)}.")
    magic, version, width, vocab_size, _, count, digest = HEADER.unpack(head)
    if magic != MAGIC or version != VERSION or width not in (2, 4):
        expected = f"{MAGIC!r}, version {VERSION}, 2 or 4 bytes an id"
        raise TrainingError(f"{path}: expected {expected}; found {magic!r}, version {version}, {width} bytes.")
    if size != HEADER.size + count * width:
        expected = HEADER.size + count * width
        raise TrainingError(f"{path}: the header claims {count:,} ids, {expected:,} bytes in all; the file has {size:,}.")
    dtype = np.dtype(f"<u{width}")
    ids = np.memmap(path, dtype, "r", offset=HEADER.size, shape=(count,)) if count else np.empty(0, dtype)
    found = hashlib.sha256(ids.data)
    if found.digest() != digest:
        raise TrainingError(f"{path}: the ids have sha256 {found.hexdigest()[:16]}…, the header says {digest.hex()[:16]}….")
    return TokenFile(ids, vocab_size, digest.hex())


class Batches:
    """Batches without end: every window of an epoch once, in an order decided by the seed and the epoch.

    ids: (count,). A batch that an epoch cannot fill takes the rest from the next one. `state` is what to save; a generator
    that is given it goes on with the very next window.
    begins: (documents,) places, ascending, where windows may start; None: anywhere. A window that starts with its document
    shows all that a word may look back to, and little that it should not. What of a document lies beyond a window is not seen.
    TrainingError: fewer tokens, or fewer begins that leave room for a window, than a batch takes.
    """

    def __init__(
        self, ids: Array, batch: int, length: int, seed: int, what: str = "the corpus", begins: Array | None = None
    ) -> None:
        needed = batch * length + 1  # the last token has its target beyond it
        if len(ids) < needed:
            raise TrainingError(
                f"{what} is shorter than a batch: {batch} × {length} tokens and the one after them are {needed:,}, "
                f"found {len(ids):,}."
            )
        if begins is not None:
            begins = begins[begins + length < len(ids)]
            if len(begins) < batch:
                raise TrainingError(f"{what}: {batch} windows are to start with a document each, found {len(begins)} with room.")
        self.ids, self.batch, self.length, self.seed, self.begins = ids, batch, length, seed, begins
        self.restore({"epoch": 0, "next": 0})

    @property
    def state(self) -> dict[str, int]:  # -> {"epoch", "next"}
        return {"epoch": self.epoch, "next": self.next}

    def restore(self, state: dict[str, int]) -> None:
        """Continue where a generator of the same ids, length and seed stood."""
        self.epoch, self.next = state["epoch"], state["next"]
        self.starts = epoch_starts(len(self.ids), self.length, self.seed, self.epoch, self.begins)

    def draw(self) -> tuple[Array, Array]:  # -> tokens, targets: (batch, length) int64
        """Return the next batch. Targets are the tokens one further on."""
        windows = np.stack([self.ids[a : a + self.length + 1] for a in (self._window() for _ in range(self.batch))])
        windows = windows.astype(np.int64)
        return windows[:, :-1], windows[:, 1:]

    def _window(self) -> int:  # -> where the next window starts
        if self.next == len(self.starts):
            self.restore({"epoch": self.epoch + 1, "next": 0})
        self.next += 1
        return int(self.starts[self.next - 1])


def epoch_starts(count: int, length: int, seed: int, epoch: int, begins: Array | None = None) -> Array:  # -> (windows,) int
    """Find where the windows of an epoch start, in the order in which they come.

    They do not overlap. The first starts at one of up to `length` places, so that every epoch cuts elsewhere. With `begins`
    each is moved on to the next of these (the last ones to the first), and may overlap with the one after it. From the bits of
    PCG64, which never change between versions of NumPy; its distributions may.
    """
    stream = np.random.PCG64([seed, epoch])
    offset = int(stream.random_raw()) % min(length, count - length)
    starts = np.arange(offset, count - length, length)
    if begins is not None:
        starts = np.unique(begins[np.searchsorted(begins, starts) % len(begins)])
    return starts[np.argsort(stream.random_raw(len(starts)), kind="stable")]


def held_out_batches(ids: Array, batch: int, length: int, most: int) -> list[tuple[Array, Array]]:  # -> [(tokens, targets)]
    """Yield the same windows every time, from the start of the held-out ids, at most `most` batches; the last may be smaller."""
    windows = min((len(ids) - 1) // length, most * batch)
    starts = [length * i for i in range(windows)]
    cut = [np.stack([ids[a : a + length + 1] for a in starts[i : i + batch]]).astype(np.int64) for i in range(0, windows, batch)]
    return [(w[:, :-1], w[:, 1:]) for w in cut]
