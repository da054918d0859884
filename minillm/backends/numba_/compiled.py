"""Compile once: where machine code is kept, what tells that it is still the right code, and the notice of a first use.

Numba turns a kernel into machine code when it is first called, in seconds, and can keep the result on disk. Its own key
is the file of the kernel, which is not enough here: kernels call functions of other files, and an edit there would go
unseen. So all kernels of this package are kept in one folder whose name is a hash of all of its source, of Numba's
version and switches, and of the processor. An edit, an update or another machine begins a new folder.

A file appears in the folder by rename, when it is complete: a process that dies while compiling leaves nothing broken.
Where nothing may be written, kernels are compiled anew in each process.
"""

import hashlib
import os
import shutil
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import llvmlite
import numba
from numba.core import event
from numba.core.registry import cpu_target

from minillm.backends.numba_.processor import MATRIX_UNIT
from minillm.folders import kernels_folder

SOURCES = Path(__file__).parent
USUAL = 20  # kernels that a model needs
MONTH = 30 * 24 * 3600  # seconds
RUN_TIME = {"NUMBA_NUM_THREADS", "NUMBA_THREADING_LAYER", "NUMBA_CACHE_DIR"}  # switches that change no machine code


def fingerprint(sources=SOURCES):  # folder -> text
    """Hash what the machine code depends on.

    Times of the files are part of it because Numba discards what is older than its source: a folder whose entries were
    made at different times would have its files replaced one by one, and that is where a kill could mix old and new.
    """
    target = cpu_target.target_context.codegen().magic_tuple()  # the kind of processor and its vector instructions
    switches = sorted(item for item in os.environ.items() if item[0].startswith("NUMBA_") and item[0] not in RUN_TIME)
    versions = numba.__version__, llvmlite.__version__, sys.version_info[:2]
    digest = hashlib.sha256(repr((versions, target, switches, MATRIX_UNIT)).encode())
    for path in sorted(sources.rglob("*.py")):
        digest.update(f"{path.name} {path.stat().st_mtime_ns} ".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def make_folder():  # -> path, or None where nothing may be written
    """Make the folder of this source version's kernels. Folders not used for a month are removed."""
    kernels = kernels_folder()
    here = kernels / fingerprint()
    try:
        if not here.exists():
            here.mkdir(parents=True, exist_ok=True)
            for old in kernels.iterdir():
                if time.time() - old.stat().st_mtime > MONTH:
                    shutil.rmtree(old, ignore_errors=True)
        os.utime(here)
    except OSError:
        return None
    return here if os.access(here, os.W_OK | os.X_OK) else None


FOLDER = make_folder()
KERNELS: list = []  # every kernel that was defined, compiled or not


def kernel(**options):
    """Compile with njit, for kernels of this package: kept on disk under the fingerprint, where there is a disk to write to.

    error_model "numpy": division by zero gives infinity, as in NumPy, instead of a check before each division.
    """

    def decorate(function):
        before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(FOLDER or "")
        try:
            compiled = numba.njit(cache=FOLDER is not None, nogil=True, error_model="numpy", **options)(function)
        finally:
            numba.config.CACHE_DIR = before
        load = compiled._cache.load_overload
        compiled._cache.load_overload = lambda *signature: without_bitcode(load(*signature))
        KERNELS.append(compiled)
        return compiled

    return decorate


def without_bitcode(found):  # a kernel from the folder, or None -> the same
    """Drop what a kernel brings so that others could be linked to it, which none is here: 10 MB of a process.

    Where Numba keeps it elsewhere, or not at all, nothing happens.
    """
    if getattr(getattr(found, "library", None), "_shared_module", None) is not None:
        found.library._shared_module = None
    return found


def code(signature):
    """Compile with cfunc, for pieces of kernels that are called by their address, kept on disk like the kernels."""

    def decorate(function):
        before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(FOLDER or "")
        try:
            return numba.cfunc(signature, cache=FOLDER is not None, error_model="numpy")(function)
        finally:
            numba.config.CACHE_DIR = before

    return decorate


class Notice(event.Listener):
    """One line on standard error when the first kernel is compiled; none where all come from the folder.

    Within `compiling` and on a terminal, the line counts kernels and seconds. MINILLM_NOTICE=off silences it.
    """

    def __init__(self):
        self.count, self.begin, self.live, self.model = 0, None, False, False

    def on_start(self, event):
        if self.ours(event) and self.begin is None:
            self.begin = time.perf_counter()
            self.say("" if self.live else ": about a minute\n" if self.model else "\n")

    def on_end(self, event):
        if self.ours(event):
            self.count += 1
            if self.live:
                self.say(f": {self.count} of about {USUAL} done, {time.perf_counter() - self.begin:.0f} s ", again="\r")

    def ours(self, event):
        return any(event.data["dispatcher"] is kernel for kernel in KERNELS)

    def say(self, more, again=""):
        if os.environ.get("MINILLM_NOTICE") == "off":
            return
        kept = "once" if FOLDER else "at every start, because the cache folder cannot be written"
        print(f"{again}minillm: compiling kernels for this machine, {kept}{more}", end="", file=sys.stderr, flush=True)


notice = Notice()
event.register("numba:compile", notice)  # Numba tells it of every compilation, and not of what it found on disk


def mark_of(kinds):  # text -> path of an empty file
    return FOLDER / f"ready-{hashlib.sha256(kinds.encode()).hexdigest()[:16]}"


def ready(kinds):
    """Whether the kernels for a model of these types have been compiled here, and are kept."""
    return FOLDER is not None and mark_of(kinds).exists()


@contextmanager
def compiling(kinds):
    """Surround the first steps of a model, so that its kernels are compiled there and the notice can show progress.

    kinds: the types of its matrices; once the steps are done, `ready` knows them.
    """
    notice.live, notice.model, count = sys.stderr.isatty(), True, notice.count
    try:
        yield
        if FOLDER:
            mark_of(kinds).touch()
    finally:
        if notice.live and notice.count > count:
            print(file=sys.stderr)
        notice.live = notice.model = False
