"""Compile once: where machine code is kept, and what tells that it is still the right code.

Numba turns a kernel into machine code when it is first called, in seconds, and can keep the result on disk. Its own key
is the file of the kernel, which is not enough here: kernels call functions of other files, and an edit there would go
unseen. So all kernels of this package are kept in one folder whose name is a hash of all of its source, of Numba's
version and of the kind of processor. An edit, an update or another machine begins a new folder.

A file appears in the folder by rename, when it is complete: a process that dies while compiling leaves nothing broken.
"""

import hashlib
import os
import platform
import shutil
import sys
import time
from pathlib import Path

import llvmlite.binding
import numba

from minillm.folders import user_folder

SOURCES = Path(__file__).parent
MONTH = 30 * 24 * 3600  # seconds


def fingerprint():  # -> text
    """A hash of what decides about the machine code."""
    digest = hashlib.sha256(f"{numba.__version__} {platform.machine()} {llvmlite.binding.get_host_cpu_name()}".encode())
    for path in sorted(SOURCES.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def make_folder():  # -> path, or None where nothing may be written
    """Where the kernels of this version of the source are kept. Folders not used for a month are removed."""
    kernels = user_folder("MINILLM_CACHE", mac="Caches", xdg="XDG_CACHE_HOME", default=".cache") / "kernels"
    here = kernels / fingerprint()
    try:
        if not here.exists():
            here.mkdir(parents=True)
            for old in kernels.iterdir():
                if time.time() - old.stat().st_mtime > MONTH:
                    shutil.rmtree(old, ignore_errors=True)
        os.utime(here)
    except OSError:
        return None
    return here


FOLDER = make_folder()


def kernel(**options):
    """njit for kernels of this package: kept on disk under the fingerprint, where there is a disk to write to.

    error_model "numpy": division by zero gives infinity, as in NumPy, instead of a check before each division.
    """

    def decorate(function):
        before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(FOLDER or "")
        try:
            return numba.njit(cache=FOLDER is not None, nogil=True, error_model="numpy", **options)(function)
        finally:
            numba.config.CACHE_DIR = before

    return decorate


def announce():
    """Say on standard error that kernels are about to be compiled, if none has been kept yet. Called before the first."""
    if FOLDER is None or not any(FOLDER.rglob("*.nbc")):
        print("minillm: compiling kernels for this machine, once; it takes some seconds.", file=sys.stderr, flush=True)
