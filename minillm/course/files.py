"""Files appear whole or not at all: written beside their place under another name, then renamed into it."""

import os
from pathlib import Path


def near(path):
    """The path as a person would type it here: relative where it lies in the current folder, else as it was given."""
    try:
        return Path(os.path.abspath(path)).relative_to(Path.cwd())
    except ValueError:
        return Path(path)


def write(path, text, mode=None):
    """Write text to path by rename, so that a reader never sees half of it. mode: permission bits, e.g. 0o755."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_text(text, encoding="utf-8", newline="\n")
        if mode is not None:
            draft.chmod(mode)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
