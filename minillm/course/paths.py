"""A path in a message: short, and as it would be typed."""

import os
from pathlib import Path


def near(path: str | Path) -> Path:
    """The path as a person would type it here: relative where it lies in the current folder, else as it was given."""
    try:
        return Path(os.path.abspath(path)).relative_to(Path.cwd())
    except ValueError:
        return Path(path)
