"""Run one judge to its end or its limit, and leave nothing of it behind.

The judge gets a clean environment, a session of its own, a pipe to report through and a log for everything else. When it ends,
or the clock does, its process group is killed, and then its children, with whatever had crept out of a group (family.py).
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from minillm.course.grading.family import Family

LOUDEST = 16_000_000  # bytes a judge may report before it is cut off
FULLEST, MOST_FILES = 300_000_000, 5_000  # bytes and files that a child may leave in its folder


@dataclass(frozen=True)
class Box:
    """The folder of a process (box.py)."""

    root: Path

    @property
    def tmp(self):
        return self.root / "tmp"

    @property
    def submission(self):
        return self.root / "submission"


def launch(box, orders, seconds):
    """Run one judge to its end or its limit. Returns its events and, in words, how it ended."""
    family = Family()
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as log:
        judge = subprocess.Popen(
            [sys.executable, "-m", "minillm.course.grading.judge"], cwd=box.root, env=environment(box, keeps_bytecode=True),
            stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, pass_fds=(writing,), start_new_session=True,
        )  # fmt: skip
        os.close(writing)
        try:
            with contextlib.suppress(BrokenPipeError), judge.stdin:
                judge.stdin.write(json.dumps(orders | {"pipe": writing}).encode() + b"\n")
            told, late, full = listen(reading, judge, time.monotonic() + seconds, Box(Path(orders["box"])).tmp)
        finally:
            os.close(reading)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(judge.pid, signal.SIGKILL)
            judge.wait()
            family.end()
        log.seek(max(0, log.seek(0, os.SEEK_END) - 20_000))
        said = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    events = []
    for line in told.splitlines():
        with contextlib.suppress(ValueError):  # the last may be cut short
            events.append(json.loads(line))
    if full:
        return events, f"more than {FULLEST // 1_000_000} MB or {MOST_FILES:,} files were written; the processes were ended"
    if late:
        return events, f"no answer within {seconds:g} s; the processes were ended"
    return events, f"the judge ended ({judge.returncode}) before this test was reported: {said[-1] if said else 'without a word'}"


def environment(box, keeps_bytecode=False):
    """Make a clean environment: no tokens, no paths of ours; two threads for each library that would take all.

    keeps_bytecode: may it keep what it compiles? A judge does: pytest rewrites all of hypothesis, and that takes seconds.
    """
    env = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(box.root), "PYTHONNOUSERSITE": "1", "PYTHONHASHSEED": "0"}
    env |= {"LC_ALL": "C.UTF-8"} | ({} if keeps_bytecode else {"PYTHONDONTWRITEBYTECODE": "1"})
    env |= dict.fromkeys(("HOME", "TMPDIR", "NUMBA_CACHE_DIR", "MPLCONFIGDIR", "HYPOTHESIS_STORAGE_DIRECTORY"), str(box.tmp))
    return env | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "2")


def listen(pipe, judge, deadline, folder):
    """Read what a judge writes to the pipe, until it ends, exceeds a limit or the deadline, or the child's folder is full.

    Returns the text, whether it was late, and whether the folder was full.
    """
    told, finished, looked = b"", False, time.monotonic()
    while len(told) < LOUDEST:
        left = deadline - time.monotonic()
        if left <= 0:
            return told.decode(errors="replace"), True, False
        if time.monotonic() > looked + 0.2:
            looked = time.monotonic()
            if overfull(folder):
                return told.decode(errors="replace"), False, True
        ready, _, _ = select.select([pipe], [], [], 0 if finished else min(left, 0.1))
        if ready:
            piece = os.read(pipe, 65536)
            told += piece
            if not piece:
                break
        elif finished:
            break
        finished = finished or judge.poll() is not None
    while judge.poll() is None and time.monotonic() < deadline and len(told) < LOUDEST:
        time.sleep(0.02)
    return told.decode(errors="replace"), judge.poll() is None, False


def overfull(folder):
    """Whether a child has written more than it may. The kernel limits a file (child.py), not their number."""
    size, count, queue = 0, 0, [folder]
    while queue and size < FULLEST and count < MOST_FILES:
        try:
            with os.scandir(queue.pop()) as entries:
                for entry in entries:
                    about = entry.stat(follow_symlinks=False)
                    size, count = size + about.st_blocks * 512, count + 1
                    if entry.is_dir(follow_symlinks=False):
                        queue.append(entry.path)
        except FileNotFoundError:  # it went while we looked
            continue
        except OSError:  # a path that is too long to look into hides something
            return True
    return size >= FULLEST or count >= MOST_FILES
