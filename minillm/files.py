"""Files appear whole or not at all: written beside their place under another name, then renamed into it.

A writer that is killed leaves the old file as it was, and a draft that the next writer overwrites. The rename comes after
fsync: without it a power cut can leave the new name on a file whose bytes never reached the disk.

    write draft ─▶ fsync ─▶ rename ─▶ fsync of the folder
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import IO

from minillm.errors import MiniLLMError

DRAFTED = (".json", ".safetensors", ".part")  # files of a draft of ours: a folder that holds others is somebody's


@contextlib.contextmanager
def replacing(path: str | PathLike, error: type[MiniLLMError] = MiniLLMError, shared: bool = False) -> Iterator[IO[bytes]]:
    """Write to a draft that takes the place of `path` once the block ends without an error; until then, the old file stays.

    Folders on the way are made. The draft has one name, so that a kill leaves at most one behind; where several processes may
    write at the same time (shared), each has its own, and the last one wins. Where the disk refuses, the MiniLLMError of this
    class.
    """
    path = Path(path)
    if not path.name:  # "", ".", "/"
        raise error(f"{path}: cannot be written: it is a folder, not the name of a file.")
    draft = path.with_name(f"{path.name}.{os.getpid()}.part" if shared else f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(draft, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as refusal:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        why = refusal.strerror or refusal
        raise error(f"{path}: cannot be written: {why}. What stood there is as it was.") from refusal
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def new_folder(path: str | PathLike, error: type[MiniLLMError] = MiniLLMError) -> Iterator[Path]:
    """Fill a folder that takes the name `path` once the block ends without an error; until then, there is none.

    A folder that is there must be empty: nothing of anybody's is removed. A kill leaves a draft, path.part, which the next writer
    fills anew. MiniLLMError of this class where the folder is not empty, or the disk refuses.
    """
    path = Path(os.path.abspath(path))
    try:
        refuse_occupied(path, error)
        draft = path.with_name(f"{path.name}.part")
        if draft.is_dir() and all(file.suffix in DRAFTED for file in draft.iterdir()):
            shutil.rmtree(draft)
        draft.mkdir(parents=True)
    except OSError as refusal:
        raise error(f"{path}: cannot be made: {refusal.strerror or refusal}: {refusal.filename}.") from refusal
    try:
        yield draft
        with contextlib.suppress(FileNotFoundError):
            path.rmdir()
        draft.rename(path)
    except OSError as refusal:
        shutil.rmtree(draft, ignore_errors=True)
        raise error(f"{path}: cannot be written: {refusal.strerror or refusal}. Nothing was made.") from refusal
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    sync_folder(path.parent)


def refuse_occupied(path: Path, error: type[MiniLLMError] = MiniLLMError) -> None:
    """Raise an error of this class where `path` is a file, or a folder that is not empty."""
    if path.is_dir() and any(path.iterdir()) or path.exists() and not path.is_dir():
        found = "a folder that is not empty" if path.is_dir() else "a file"
        raise error(f"{path}: expected a new folder, or an empty one, found {found}. Remove it, or give another name.")


def write_text(path: str | PathLike, text: str, error: type[MiniLLMError] = MiniLLMError) -> None:
    """Write text to `path` as UTF-8 with plain line ends; two processes may do so at the same time."""
    with replacing(path, error, shared=True) as file:
        file.write(text.encode())


def sync_folder(folder: Path) -> None:
    """Make a rename last. Not every system can (Windows opens no folder), and the file is whole all the same."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
