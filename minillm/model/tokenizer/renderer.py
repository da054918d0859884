"""The program that renders chat templates, in a process of its own (sandbox.py starts it, as `python -I -S renderer.py`).

It imports Jinja, gives up what no template needs, says that it is ready, and from then on answers requests:

    in   8 bytes: length      JSON: {"source", "variables", "seconds"}
    out  1 byte: kind         8 bytes: length      UTF-8            kinds: r ready, t text, e error

What it gives up is enforced by the kernel and not by Python, so it holds in the middle of a C loop and against what might be
found to break out of Jinja's sandbox: memory beyond MEMORY, time beyond the request's, new files and sockets, new processes.
Where there is no `resource` module (Windows), or it takes no limit of memory (macOS), the parent's clock alone stands.

Nothing of this package is imported, and nothing large: a start takes as long as importing Jinja.
"""

import json
import os
import signal
import sys
from contextlib import suppress
from datetime import datetime
from typing import Any, NoReturn

sys.path += sys.argv[1:]  # the folders of jinja2 and markupsafe

import jinja2.debug  # noqa: E402, F401  what Jinja would import at the first error: later no file can be opened
from jinja2 import TemplateError  # noqa: E402
from jinja2.ext import Extension, loopcontrols  # noqa: E402
from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: E402

MEMORY = 256 << 20  # bytes: a conversation of a million characters needs a twentieth
LIMIT = 4_000_000  # characters of one prompt: some ten times the context of a large model
OUT_OF_MEMORY = 77  # exit status: after a MemoryError nothing is certain, so this process says it by ending


def raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
    """Encode JSON as transformers does: no HTML escapes, Unicode as it is."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class Generation(Extension):
    """{% generation %} ... {% endgeneration %} marks for training what the assistant said; here it is only its content."""

    tags = {"generation"}

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def environment() -> Any:
    """Make Jinja's environment as transformers does: no dunder attributes, nothing mutable, no loader to import from."""
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation])
    made.filters["tojson"] = tojson
    made.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}
    return made


def set_limits() -> None:
    """Set the limits. One that the platform does not have, or refuses, is passed over."""
    try:
        import resource
    except ImportError:
        return
    mapped = 0  # address space in use: libraries and locale files, which differ much between systems
    if os.path.exists("/proc/self/statm"):
        with open("/proc/self/statm") as file:
            mapped = int(file.read().split()[0]) * resource.getpagesize()
    limits = {"DATA": MEMORY, "CORE": 0, "FSIZE": 0, "NPROC": 0, "NOFILE": 0} | ({"AS": mapped + MEMORY} if mapped else {})
    for name, value in limits.items():
        with suppress(AttributeError, ValueError, OSError):
            resource.setrlimit(getattr(resource, "RLIMIT_" + name), (value, value))


def answer(jinja: Any, templates: dict, source: str, variables: dict) -> tuple[bytes, str]:  # -> kind, text
    """Render a template. It may raise whatever its expressions can: type errors, division by zero, recursion."""
    try:
        if source not in templates:
            if len(templates) >= 8:
                templates.clear()
            templates[source] = jinja.from_string(source)
        text = templates[source].render(variables)
        return (b"t", text) if len(text) <= LIMIT else (b"e", f": {len(text):,} characters, more than {LIMIT:,}")
    except MemoryError:
        raise
    except Exception as error:
        number = getattr(error, "lineno", None)
        line = f" (line {number})" if number else ""
        said = str(error)[:2000] or type(error).__name__
        return b"e", f"{line}: {' '.join(said.split())[:200]}"


def send(kind: bytes, text: str = "") -> None:
    data = text.encode("utf-8", "surrogatepass")  # marks of chat.py are lone surrogates
    sys.stdout.buffer.write(kind + len(data).to_bytes(8, "big") + data)
    sys.stdout.buffer.flush()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Control-C in a terminal is for the parent
    clock = getattr(signal, "setitimer", None)
    jinja, read = environment(), sys.stdin.buffer.read
    templates: dict[str, Any] = {}
    jinja.from_string("{{ strftime_now('%B') | pprint }}").render()  # what is imported late is imported now
    set_limits()
    send(b"r")
    while len(head := read(8)) == 8:
        request = json.loads(read(int.from_bytes(head, "big")))
        if clock:  # without a handler the signal ends this process, also where the parent is gone
            clock(signal.ITIMER_REAL, request["seconds"])
        reply = answer(jinja, templates, request["source"], request["variables"])
        if clock:
            clock(signal.ITIMER_REAL, 0)
        send(*reply)


if __name__ == "__main__":
    try:
        main()
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
