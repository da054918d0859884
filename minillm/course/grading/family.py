"""Find and end every process that a child left behind, also one that moved to a session of its own.

On Linux a process can ask to inherit orphans (PR_SET_CHILD_SUBREAPER): whatever the child's descendants do to get away, when
their parents are dead they become ours, and /proc names them. Elsewhere killing the child's process group has to do.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36


class Family:
    """The processes of a child: made before it is started; end() kills all that have become ours since."""

    def __init__(self):
        self.linux = sys.platform == "linux"
        if self.linux:
            self._adopt(1)
        self.before = set(children())

    def end(self, patience=5.0):
        """Kill until nothing is left: a process may fork while we look."""
        deadline = time.monotonic() + patience
        while self.linux and time.monotonic() < deadline and (found := set(children()) - self.before):
            for pid in found:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            for pid in found:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)
        if self.linux:
            self._adopt(0)

    @staticmethod
    def _adopt(on):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, on, 0, 0, 0)


def children():
    """List the process ids whose parent is this process."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == os.getpid():
                yield int(folder.name)
