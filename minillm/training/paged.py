"""Paged moments: AdamW's memory in a file, of which only what is used now need be in RAM.

The moments are two thirds of what full fine-tuning holds before it sees a token, and are touched once a step, in one sweep
from the first to the last; during forward and backward they lie there. So let them lie on disk: map a file, and the system
keeps its pages in memory while there is room, writes them out when activations need the room, and reads them back when the
update comes. Nothing in AdamW changes, and no bit of the result; a step that does not fit gets slower instead of failing.

    GPU      the paper's: NVIDIA's unified memory moves pages between the GPU and RAM
    CPU      here: a mapped file moves them between RAM and disk

Dettmers et al. 2023, arXiv:2305.14314, Section 3 ("Paged Optimizers").
"""

import math
import mmap
import os
import tempfile
from pathlib import Path

import numpy as np

from minillm.errors import TrainingError


def paged(  # {name: array} -> {name: array} of the same values, in a mapped file
    arrays: dict[str, np.ndarray], folder: Path | None = None
) -> dict[str, np.ndarray]:
    """Copy arrays into one temporary file, mapped; it has no name, and is gone with the last array, or the process.

    folder: on which disk; None: the system's for temporary files (where that is kept in RAM, nothing is gained).
    Room is reserved at once: a disk that is full says so here, not by a signal in the middle of a step.
    TrainingError: no such folder, or no room for so many bytes.
    """
    nbytes = sum(a.nbytes for a in arrays.values())
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, max(nbytes, 1))
            else:  # macOS, Windows
                file.truncate(max(nbytes, 1))
            pages = mmap.mmap(file.fileno(), 0)  # holds the file open by itself
    except OSError as error:
        raise TrainingError(
            f"{nbytes:,} bytes of moments cannot be paged to {folder or 'the temporary folder'}: {error}."
        ) from None
    made, start = {}, 0
    for name, array in arrays.items():
        made[name] = np.frombuffer(pages, array.dtype, math.prod(array.shape), start).reshape(array.shape)
        made[name][...] = array
        start += array.nbytes
    return made
