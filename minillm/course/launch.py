"""Run one child to its end or its limit, and leave nothing of it behind.

The child gets a clean environment, a session of its own, a pipe to report through and a log for everything else. When it ends,
or the clock does, its process group is killed, and then whatever had crept out of the group (family.py).
"""

import contextlib
import json
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time

from minillm.course.family import Family

NOBODY = 65534
LOUDEST = 4_000_000  # bytes a child may report before it is cut off


def launch(box, orders, limits, user):
    """Run one child to its end or its limit. Returns its events and, in words, how it ended."""
    nonce, family = secrets.token_hex(16), Family()
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "minillm.course.child"], cwd=box.root, env=environment(box), stdin=subprocess.PIPE, stdout=log,
            stderr=subprocess.STDOUT, pass_fds=(writing,), start_new_session=True, **user,
        )  # fmt: skip
        os.close(writing)
        try:
            with contextlib.suppress(BrokenPipeError), child.stdin:
                child.stdin.write(json.dumps(orders | {"nonce": nonce, "pipe": writing}).encode() + b"\n")
            told, late = listen(reading, child, time.monotonic() + limits.seconds)
        finally:
            os.close(reading)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            family.end()
        log.seek(max(0, log.seek(0, os.SEEK_END) - 20_000))
        said = [line for line in log.read().decode(errors="replace").splitlines() if line.startswith("minillm: ")]
    events = []
    for line in told.splitlines():
        with contextlib.suppress(ValueError, AttributeError):
            event = json.loads(line)
            if event.pop("nonce", None) == nonce:
                events.append(event)
    if late:
        return events, f"no answer within {limits.seconds:g} s; the process was ended"
    timeouts = [line.removeprefix("minillm: ") for line in said if "gave no answer" in line]
    ended = f"the process ended ({child.returncode}) before this test was reported: does the code exit?"
    return events, timeouts[-1] if timeouts else ended


def environment(box):
    """Nothing of ours: no tokens, no paths; two threads for each library that would take all."""
    env = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(box.root), "PYTHONDONTWRITEBYTECODE": "1"}
    env |= {"PYTHONNOUSERSITE": "1", "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
    env |= dict.fromkeys(("HOME", "TMPDIR", "NUMBA_CACHE_DIR", "MPLCONFIGDIR", "HYPOTHESIS_STORAGE_DIRECTORY"), str(box.tmp))
    return env | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "2")


def listen(pipe, child, deadline):
    """What a child writes to the pipe, until it ends, says too much, or the deadline passes: (text, whether it was late)."""
    told, finished = b"", False
    while len(told) < LOUDEST:
        left = deadline - time.monotonic()
        if left <= 0:
            return told.decode(errors="replace"), True
        ready, _, _ = select.select([pipe], [], [], 0 if finished else min(left, 0.1))
        if ready:
            piece = os.read(pipe, 65536)
            told += piece
            if not piece:
                break
        elif finished:  # it is gone, and a process it left behind holds the pipe open
            break
        finished = finished or child.poll() is not None
    while child.poll() is None and time.monotonic() < deadline and len(told) < LOUDEST:
        time.sleep(0.02)
    return told.decode(errors="replace"), child.poll() is None


def unprivileged():
    """Popen's arguments for a child without rights: user nobody, where we are root and it can read this Python."""
    if os.geteuid() != 0:
        return {}
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    with contextlib.suppress(OSError):
        trial = subprocess.run([sys.executable, "-c", "import numpy, pytest"], cwd="/", capture_output=True, **user)
        return user if trial.returncode == 0 else {}
    return {}
