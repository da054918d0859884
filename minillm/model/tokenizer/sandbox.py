"""A sandbox for untrusted templates: a process of its own, under limits that the kernel enforces.

A chat template is a program that came with a download. Jinja's sandbox keeps it away from Python, but it may ask for
'a' * 10**10 or loop for a year, and much of that is one call into C, where no check written in Python is reached. So each
rendering happens in another process (renderer.py), which has MEMORY bytes, no files, no network, and SECONDS; one that takes more
is ended, and the next request starts another. Messages go there as JSON and text comes back: a tenth of a millisecond.

One warm process serves all templates and all threads of this one, one rendering at a time. It starts at the first use, ends
with this process (its input closes), and is not shared with a fork.

Limits of memory stand on Linux and other systems that honour RLIMIT_DATA or RLIMIT_AS. On macOS and Windows time is bounded and
memory is not. Where no process can be started at all, a template is refused: there is no rendering without a limit of time.
"""

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from minillm.errors import TokenizerError

SECONDS = 5.0
START_SECONDS = 60.0  # for importing Jinja, from a slow disk
LONGEST_SOURCE = 400_000  # characters
LONGEST_ANSWER = 16_000_000  # bytes: the renderer's 4 million characters of four each
OUT_OF_MEMORY, MEMORY = 77, 256  # renderer.py's exit status, and its limit in MiB
POLLS = hasattr(select, "poll")  # pipes of Windows cannot be waited for: there a thread ends the process at its time
READABLE, WRITABLE = (select.POLLIN, select.POLLOUT) if POLLS else (0, 0)
KEPT = ("TZ", "SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")  # of the environment: no keys and no tokens go along


def renderer_file() -> Path:
    return Path(__file__).with_name("renderer.py")


class Failure(Exception):
    """No answer: the process exceeded its time or memory, or could not be started."""


class Renderer:
    """The warm process. Any thread may call `ask`."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: Any = None  # Popen, while there is one

    def ask(self, request: bytes, seconds: float) -> tuple[bytes, str]:
        """Ask the process: kind and text of the answer (renderer.py). Failure after `seconds`, or where the process ends.

        Any error ends the process, Control-C too: an answer left unread would be taken for the next one.
        """
        with self.lock:
            try:
                if self.process is None or self.process.poll() is not None:
                    self.stop()
                    self.start()
                return self._within(seconds, request)
            except BaseException:
                self.stop()
                raise

    def start(self) -> None:
        specs = [find_spec(name) for name in ("jinja2", "markupsafe")]
        origins = [spec.origin for spec in specs if spec is not None and spec.origin]
        if len(origins) < len(specs) or not sys.executable:
            raise Failure("needs the packages jinja2 and markupsafe, and a Python to run them")
        folders = {str(Path(origin).parents[1]) for origin in origins}
        command = [sys.executable, "-I", "-S", str(renderer_file()), *sorted(folders)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        environment = {name: os.environ[name] for name in KEPT if name in os.environ}
        try:
            self.process = subprocess.Popen(command, **pipes, bufsize=0, env=environment)
        except OSError as error:
            raise Failure(f"no process could be started to render it: {error}") from None
        if self._within(START_SECONDS) != (b"r", "") or self.process is None:
            raise Failure("the process that renders it did not start as it should")

    def _within(self, seconds: float, request: bytes = b"") -> tuple[bytes, str]:
        """Send a request, if there is one, and read an answer."""
        process, deadline = self.process, time.monotonic() + seconds
        timer = threading.Timer(seconds, process.kill)
        timer.daemon = True
        if not POLLS:
            timer.start()
        try:
            if request:
                write(process.stdin, len(request).to_bytes(8, "big") + request, deadline)
            head = read(process.stdout, 9, deadline)
            size = int.from_bytes(head[1:], "big")
            if size > LONGEST_ANSWER:
                raise Failure(f"an answer of {size:,} bytes, more than {LONGEST_ANSWER:,}")
            answer = head[:1], read(process.stdout, size, deadline).decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise Failure("the answer of the process that renders it is not UTF-8") from None
        except (EOFError, OSError):  # a TimeoutError is one
            late = time.monotonic() >= deadline
            raise Failure(f"more than {seconds:g} seconds" if late else failure_reason(process, seconds)) from None
        finally:
            timer.cancel()
        if not POLLS and time.monotonic() >= deadline:  # in time by a hair: the timer may kill it during the next request
            self.stop()
        return answer

    def stop(self) -> None:
        """End the process, and wait until it has gone."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.stdin.close()
            process.stdout.close()
            process.wait()

    def forked(self) -> None:
        """Drop the process after a fork: it is the parent's."""
        process, self.process, self.lock = self.process, None, threading.Lock()
        if process is not None:
            process.stdin.close()
            process.stdout.close()
            process.returncode = 0  # not ours to wait for


def failure_reason(process: subprocess.Popen, seconds: float) -> str:
    """Say why the process ended."""
    code: int | str
    try:
        code = process.wait(1)
    except subprocess.TimeoutExpired:  # it has closed its pipes, and lives on
        code = "unknown"
    if code == -14:  # SIGALRM, its own clock
        return f"more than {seconds:g} seconds"
    return f"more than {MEMORY} MiB" if code == OUT_OF_MEMORY else f"the process that renders it ended with status {code}"


def wait(pipe: Any, event: int, deadline: float) -> None:
    """Wait until the pipe can be read or written. TimeoutError at the deadline."""
    if POLLS:
        poll = select.poll()
        poll.register(pipe, event)
        if not poll.poll(max(0, deadline - time.monotonic()) * 1000):
            raise TimeoutError


def write(pipe: Any, data: bytes, deadline: float) -> None:
    view = memoryview(data)
    while view:
        wait(pipe, WRITABLE, deadline)
        view = view[pipe.write(view[:4096]) :]  # a pipe that can be written takes so many bytes without waiting


def read(pipe: Any, size: int, deadline: float) -> bytes:
    """Read exactly so many bytes. EOFError where there are fewer."""
    parts = []
    while size:
        wait(pipe, READABLE, deadline)
        parts.append(pipe.read(min(size, 1 << 20)))
        if not parts[-1]:
            raise EOFError
        size -= len(parts[-1])
    return b"".join(parts)


RENDERER = Renderer()
atexit.register(RENDERER.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=RENDERER.forked)


def compile_template(source: str) -> Callable[..., str]:
    """Make a function of the template's variables that returns the rendered text. TokenizerError, one line, when that fails.

    Nothing is compiled here: the renderer does so at the first call, and keeps it.
    """
    if len(source) > LONGEST_SOURCE:
        raise TokenizerError(f"chat template: {len(source):,} characters, more than {LONGEST_SOURCE:,}")

    def render(**variables: Any) -> str:
        try:
            request = json.dumps({"source": source, "variables": variables, "seconds": SECONDS}).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise TokenizerError(f"chat template: messages and variables must be as JSON has them: {error}") from None
        try:
            kind, text = RENDERER.ask(request, SECONDS)
        except Failure as failure:
            raise TokenizerError(f"chat template: {failure}") from None
        if kind != b"t":
            raise TokenizerError(f"chat template{text}")
        return text

    return render
