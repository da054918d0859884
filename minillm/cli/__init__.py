"""Floor 8: the command line, one module a command.

Each module says HELP, adds its arguments in `configure(parser)`, and works in `run(args)`, where it imports what it
needs: so `minillm --help` imports no NumPy. Errors that a user can cause become one line and exit status 2.
"""

import importlib
import os
import sys
from collections.abc import Sequence

from minillm import __version__
from minillm.cli.arguments import Parser
from minillm.cores import available_cores
from minillm.errors import MiniLLMError

COMMANDS = (
    "tour", "generate", "chat", "download", "inspect", "convert", "quantize", "imatrix", "perplexity", "bench", "serve",
    "loadtest", "train", "backends", "quiz", "course",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:  # exit status
    """Run one command. 0: done. 2: an error the user can put right. 130: stopped with Control-C."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a narrow terminal must not stop a story
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="surrogateescape")  # bytes that are no UTF-8 reach the tokenizer, which says where they are
    top, words = parser(), sys.argv[1:] if argv is None else argv
    if not words:
        top.print_help()
        return 0
    args = top.parse_args(words)
    try:
        if getattr(args, "threads", None) is not None:
            set_threads(args.threads)
        if hasattr(args, "threads"):
            tell_threads()
        return args.run(args) or 0
    except MiniLLMError as error:
        print(f"minillm: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except NotImplementedError as error:  # a stub: in a student bundle the commands run the student's code
        from minillm.course.exercises.regions import named

        if not (id := named(str(error))):
            raise
        print(f"minillm: exercise {id} is not written yet: minillm course check {id}", file=sys.stderr)
        return 2
    except OSError as error:  # a folder that cannot be made, a name too long, a file of another user: the path says which
        if isinstance(error, BrokenPipeError):  # `minillm generate ... | head`: the reader has gone, nothing is left to say
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        if error.filename is None:
            raise
        name = ascii(os.fsdecode(error.filename)) if not isinstance(error.filename, int) else str(error.filename)
        print(f"minillm: {name if len(name) < 200 else name[:100] + '…'}: {error.strerror}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nminillm: stopped", file=sys.stderr)
        return 130


def parser() -> Parser:
    """All commands and their options. A subparser is of the same class."""
    top = Parser(prog="minillm", description="A small LLM inference engine that you can read.")
    top.add_argument("--version", action="version", version=f"minillm {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = importlib.import_module(f"minillm.cli.{name}")
        sub = commands.add_parser(name, help=module.HELP, description=module.HELP)
        module.configure(sub)
        sub.set_defaults(run=module.run)
    top.introduce()
    return top


def set_threads(count: int) -> None:
    """Tell every numeric library how many threads to use. They read it when first imported, so not later than here.

    Numba refuses to compile once its variable no longer says how many threads it has started, so where it is running
    already (a notebook that calls a command), it is asked to use fewer instead.
    """
    if count < 1:
        raise MiniLLMError(f"--threads must be at least 1, found {count}.")
    from minillm.bench.worker import THREAD_VARIABLES

    variables = dict.fromkeys(THREAD_VARIABLES, str(count))
    if numba := sys.modules.get("numba"):
        del variables["NUMBA_NUM_THREADS"]
        numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
        if team := sys.modules.get("minillm.backends.numba_.team"):
            team.set_threads(count)
    os.environ.update(variables)


def tell_threads() -> None:
    """Warn on standard error where a numeric library is to start more threads than there are cores for us."""
    from minillm.bench.worker import THREAD_VARIABLES

    cores, asked = available_cores(), {name: os.environ.get(name, "") for name in THREAD_VARIABLES}
    if more := [name for name, value in asked.items() if value.isdecimal() and int(value) > cores]:
        threads, where = max(int(asked[name]) for name in more), ", ".join(more)
        print(f"minillm: {threads} threads on {cores} cores take turns and wait for each other ({where}).", file=sys.stderr)
