"""An untrusted .npz file: a zip of plain arrays, none of which may be larger than the file.

np.load trusts what it reads: an archive may hold a gigabyte of zeros in a few bytes, a header may claim any shape, and what
zipfile raises for a damaged directory has no common class. What np.savez writes is simpler than what np.load reads: members are
stored as they are, and a header is one line. So only that is taken, sizes are compared before anything is allocated, and nothing
is evaluated.

    member: | 147 "NUMPY" | version: 2 | length: 2 or 4 | {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), } | numbers |

The format: numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

import math
import re
import zipfile
from pathlib import Path

import numpy as np

HEADER = re.compile(
    rb"\{'descr': '([<|][fu][1248])', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,19}(?:, |,|(?=\))))*)\), \} *\n"
)
LENGTHS = {b"\x01\x00": 2, b"\x02\x00": 4, b"\x03\x00": 4}  # version: bytes of the header's length


def read_npz(path: Path, error: type[Exception]) -> dict[str, np.ndarray]:
    """Read arrays of floats or unsigned integers.

    `error` for anything that np.savez did not write; where there is no file, FileNotFoundError.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            total, size = sum(m.file_size for m in members), path.stat().st_size
            if total > size or any(m.compress_type != zipfile.ZIP_STORED or m.flag_bits & 1 for m in members):
                raise ValueError(f"members of {total:,} bytes, stored as they are in {size:,}, were expected")
            if len({m.filename for m in members}) < len(members):
                raise ValueError("a name is there twice")
            return {m.filename.removesuffix(".npy"): array(archive.read(m)) for m in members}
    except FileNotFoundError:
        raise
    except Exception as wrong:  # zipfile has no base class for what damage makes it raise
        raise error(f"{path}: not a checkpoint, or a damaged one: {type(wrong).__name__}: {str(wrong)[:200]}.") from None


def array(data: bytes) -> np.ndarray:  # bytes of a member -> array, which can be written to
    """Read one array, of exactly as many bytes as its shape needs."""
    if data[:6] != b"\x93NUMPY" or data[6:8] not in LENGTHS:
        raise ValueError(f"a member begins with {data[:8]!r}, which is no array")
    begin = 8 + LENGTHS[data[6:8]]
    end = begin + int.from_bytes(data[8:begin], "little")
    if not (match := HEADER.fullmatch(data[begin:end])):
        raise ValueError(f"an array says {data[begin:end][:80]!r} of itself")
    dtype, shape = np.dtype(match[1].decode()), tuple(int(n) for n in match[3].replace(b",", b" ").split())
    if math.prod(shape) * dtype.itemsize != len(data) - end:
        raise ValueError(f"an array of shape {shape} has {len(data) - end:,} bytes")
    values = np.frombuffer(data, dtype, offset=end).copy()
    return values.reshape(shape, order="F" if match[2] == b"True" else "C")
