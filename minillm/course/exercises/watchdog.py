"""End a test that never ends, even inside a compiled loop.

Python's own alarm (SIGALRM) is heard between two bytecodes; a numba loop has none, and holds the interpreter's lock, so no thread
can step in either. What remains is another process: it is told when a test starts and when it ends, and if the second message
does not come it prints what happened and ends the run. It costs one idle Python, and works where there is no SIGALRM (Windows).

Run as a script this file is that process: lines on standard input, "SECONDS<tab>MESSAGE" to arm it, an empty line to disarm.
"""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time


class TimeLimit(BaseException):
    """A test took longer than its limit. Not an Exception: `except Exception` must not swallow it, nor hypothesis shrink it."""

    __module__ = "builtins"
    exercise = ""  # whose lines were running, where that is known


class Watchdog:
    """limit(seconds, message) around each test; close() at the end."""

    looks = 6  # at the stack, before a test is ended: they tell a loop from what it calls

    def __init__(self):
        command = [sys.executable, "-I", "-S", __file__, str(os.getpid())]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
        self.alarm = hasattr(signal, "SIGALRM")
        self.armed = False

    @contextlib.contextmanager
    def limit(self, seconds, message, blame=lambda stacks: ("", "")):
        """Raise TimeLimit in Python code after `seconds`; end the whole process a little later if that was not heard.

        blame: from a few looks at the stack (lists of frames, the innermost first) to where it hangs, in words, and whose
        exercise that is.
        """
        stacks = []

        def ring(_, frame):
            stacks.append(list(outwards(frame)))
            if len(stacks) == self.looks:
                signal.setitimer(signal.ITIMER_REAL, 0)
                where, exercise = blame(stacks)
                late = TimeLimit(f"no answer after {seconds:g} s{where}: a loop that never ends?")
                late.exercise = exercise
                stacks.clear()
                raise late

        self._say(f"{seconds * 1.25 + 1 if self.alarm else seconds}\t{message}")
        self.armed = True
        if self.alarm:
            before = signal.signal(signal.SIGALRM, ring)
            signal.setitimer(signal.ITIMER_REAL, seconds, 0.02)
        try:
            yield
        finally:
            self.armed = False
            if self.alarm:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, before)
            self._say("")

    def close(self):
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.wait()

    def _say(self, line):
        with contextlib.suppress(OSError):  # it may have been killed; the run goes on unwatched
            print(line.replace("\n", " "), file=self.process.stdin, flush=True)


def outwards(frame):
    while frame:
        yield frame
        frame = frame.f_back


def watch(pid, lines):
    """Run the other process: wait for lines; end process pid when one that arms is not followed in time."""
    while (line := lines.get()) is not None:
        while line and line.strip():
            seconds, _, message = line.partition("\t")
            try:
                line = lines.get(timeout=float(seconds))
            except queue.Empty:
                print(f"\nminillm: {message.strip()}", file=sys.stderr, flush=True)
                os.kill(pid, signal.SIGTERM)
                time.sleep(1)
                with contextlib.suppress(OSError):
                    os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
                return
        if line is None:
            return


def main():
    lines = queue.Queue()

    def read():
        for line in sys.stdin:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    watch(int(sys.argv[1]), lines)


if __name__ == "__main__":
    main()
