"""Files of a run appear whole or not at all: written beside their place under another name, then renamed into it.

Whoever is killed while writing leaves the old file as it was, and a draft that the next writer overwrites. The rename comes
after fsync: without it a power cut can leave the new name on a file whose bytes never reached the disk.

    write draft ─▶ fsync ─▶ rename ─▶ fsync of the folder
"""

import contextlib
import os
from pathlib import Path

from minillm.errors import TrainingError


@contextlib.contextmanager
def replacing(path):  # -> a binary file, open for writing
    """What is written to the file stands at `path` once the block is left without an error; until then, what stood there.

    One writer at a time: the draft has one name, so that a kill leaves at most one behind. TrainingError where the disk
    refuses.
    """
    path = Path(path)
    draft = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(draft, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise TrainingError(f"{path} could not be written ({error}); what stood there is as it was.") from error
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def sync_folder(folder):
    """Make a rename last. Windows cannot open a folder, and has no need to."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
