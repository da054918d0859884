"""Where a program may keep things on this machine: each platform has its own places, and a variable overrides them."""

import os
import sys
from pathlib import Path


def user_folder(variable: str, mac: str, xdg: str, default: str) -> Path:
    """Find the folder that $variable names; else `minillm` in the platform's place.

    mac: below ~/Library. xdg: the variable of other systems, and `default` below ~ where it is not set. Windows has one
    place for all of it.
    """
    if chosen := os.environ.get(variable):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / mac
    else:
        base = os.environ.get(xdg) or Path.home() / default
    return Path(base) / "minillm"


def kernels_folder() -> Path:
    """Find where compiled kernels are kept."""
    return user_folder("MINILLM_CACHE", mac="Caches", xdg="XDG_CACHE_HOME", default=".cache") / "kernels"
