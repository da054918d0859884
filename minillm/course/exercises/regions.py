"""An exercise is the text between two comments in the solved source.

    # BEGIN SOLUTION ex=03.2          in CUDA C:  // BEGIN SOLUTION ex=12.3
    ...the idea, 3 to 12 lines...
    # END SOLUTION

The package is always solved; a learner's file is the same file with its regions blanked, so the two cannot drift apart. A
blanked region is marked BEGIN YOUR CODE and holds one statement that says which exercise is missing:

    Python, @njit      raise NotImplementedError("exercise 03.2")       numba compiles it when the function is first called
    @cuda.jit kernel   todo_exercise_12_1() first: a kernel on a device cannot raise, and a name that does not exist stops
                       numba's compiler (or the simulator) with that name in its message
    CUDA C             #error exercise 12.3                             nvcc, nvrtc and g++ all stop with that line

A file written for one lesson may hold a region of another: that is emptied as well, or it would be a solution for nothing, and
marked (not started). Until its lesson is, `settle` lends it the reference's lines wherever the file is run, so that any lesson
can come first.

nbgrader and otter-grader read the same marks (one `#`, one blank).
"""

import ast
import re
import textwrap
import threading
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from minillm.errors import MiniLLMError

MARK = re.compile(
    r"(?P<indent>[ \t]*)(?P<comment>#|//) (?P<edge>BEGIN|END) (?P<kind>SOLUTION|YOUR CODE)"
    r"(?: ex=(?P<id>\d\d\.\d+))?(?: lines=(?P<lines>\d+))?(?P<later> \(not started\))?[ \t]*"
)
LATER = " (not started)"
NEARLY = re.compile(r"[ \t]*(#+|/{2,})[ \t]*(BEGIN|END)[ \t]+(SOLUTION|YOUR CODE)\b", re.IGNORECASE)
UNWRITTEN = re.compile(
    r'raise NotImplementedError\("exercise (?P<python>\d\d\.\d+)"\)|#error exercise (?P<c>\d\d\.\d+)'
)
PARSING = threading.Lock()
NAMED = re.compile(r"\bexercise (\d\d\.\d+)|\btodo_exercise_(\d\d)_(\d+)\b")


class RegionError(MiniLLMError):
    """Marks of an exercise that are unbalanced, nested, repeated or misspelt."""


@dataclass(frozen=True)
class Region:
    """One exercise's lines: first and last are the 0-based lines of its two marks."""

    id: str
    first: int
    last: int
    indent: str
    comment: str  # "#" or "//"
    lines: int  # of code in the solution: neither blank nor comment
    solved: bool
    later: bool = False  # of a lesson that this file was not written for


def find(source: str, name: str = "source") -> list[Region]:
    """Find all regions of a source in order. Errors name the file and line."""
    lines, found = source.splitlines(), []
    seen: dict[str, int] = {}
    opened: Any = None  # line and match of a BEGIN without its END

    def complain(number: int, what: str) -> NoReturn:
        raise RegionError(f"{name}:{number + 1}: {what}")

    for number, line in enumerate(lines):
        mark = MARK.fullmatch(line)
        if mark is None:
            if NEARLY.match(line):
                complain(number, f"misspelt mark {line.strip()!r}; write '# BEGIN SOLUTION ex=01.2' or '# END SOLUTION'.")
        elif mark["edge"] == "BEGIN":
            if mark["id"] is None:
                complain(number, "a BEGIN mark without its exercise; write ex=NN.k after it.")
            if opened:
                complain(number, f"BEGIN inside exercise {opened[1]['id']} (line {opened[0] + 1}); end that one first.")
            if mark["id"] in seen:
                complain(number, f"exercise {mark['id']} has a region already, at line {seen[mark['id']]}; one region each.")
            seen[mark["id"]] = number + 1
            opened = number, mark
        else:
            if not opened:
                complain(number, "END without BEGIN.")
            first, begin = opened
            if (begin["kind"], begin["comment"]) != (mark["kind"], mark["comment"]):
                complain(number, f"this END does not match the BEGIN at line {first + 1}.")
            body = [text for text in lines[first + 1 : number] if text.strip()]
            size = sum(not text.lstrip().startswith(begin["comment"]) for text in body)
            solved = begin["kind"] == "SOLUTION"
            found.append(Region(begin["id"], first, number, begin["indent"], begin["comment"],
                                size if solved else int(begin["lines"] or 0), solved, bool(begin["later"])))
            opened = None
    if opened:
        complain(opened[0], f"exercise {opened[1]['id']} is begun and never ended.")
    return found


def body(source: str, id: str) -> str | None:
    """Return the lines inside a region, without its indentation; None where the source has no such region."""
    for region in find(source):
        if region.id == id:
            return textwrap.dedent("\n".join(source.splitlines()[region.first + 1 : region.last]))
    return None


def fill(source: str, id: str, text: str) -> str:
    """Replace the inside of one region by text, brought to the region's indentation."""
    lines = source.splitlines()
    region = next((region for region in find(source) if region.id == id), None)
    if region is None:
        raise RegionError(f"no region for exercise {id}: nothing to fill.")
    inside = textwrap.indent(textwrap.dedent(text).strip("\n"), region.indent).splitlines()
    return "\n".join(lines[: region.first + 1] + inside + lines[region.last :]) + "\n"


def blank(source: str, only: Container[str] | None = None, name: str = "source", later: bool = False) -> str:
    """Empty the regions of a source (those in `only`, or all). Python must still parse afterwards.

    later: the others are emptied too, and marked as not started.
    """
    lines = source.splitlines()
    for region in reversed(find(source, name)):
        mine = only is None or region.id in only
        if region.solved and (mine or later):
            mark, stub = f"{region.comment} BEGIN YOUR CODE ex={region.id} lines={region.lines}", _stub(source, region, name)
            inside = [region.indent + text for text in (mark + LATER * (not mine), *stub, f"{region.comment} END YOUR CODE")]
            lines[region.first : region.last + 1] = inside
    text = "\n".join(lines) + "\n"
    if name.endswith(".py"):
        try:
            parse(text, name)
        except SyntaxError as error:
            raise RegionError(f"{name}:{error.lineno}: does not parse once blanked ({error.msg}); move the marks.") from None
    return text


def begin(source: str, ids: Container[str]) -> str:
    """Remove the marks "not started" of these exercises from a source."""
    lines = source.splitlines()
    for region in find(source):
        if region.id in ids and region.later:
            lines[region.first] = lines[region.first].replace(LATER, "")
    return "\n".join(lines) + "\n"


def settle(source: str, bodies: Mapping[str, str], under: Container[str] = ()) -> tuple[str, list[int]]:
    """Lend the regions that are not started, nor written, the lines in `bodies` ({id: text}), but for exercises in `under`.

    Returns the source, and for each of its lines the number that the line had before: what a traceback should show.
    """
    lines, missing = source.splitlines(), unwritten(source)
    numbers = list(range(1, len(lines) + 1))
    try:
        found = find(source)
    except RegionError:  # a learner may do to the marks what they like
        found = []
    for region in reversed(found):
        if region.later and region.id in missing and region.id in bodies and region.id not in under:
            inside = textwrap.indent(bodies[region.id].strip("\n"), region.indent).splitlines()
            lines[region.first + 1 : region.last] = inside
            numbers[region.first + 1 : region.last] = [region.first + 2] * len(inside)
    return "\n".join(lines) + "\n", numbers


def is_later(source: str, id: str) -> bool:
    """Whether an exercise is marked as not started, and not written all the same."""
    return any(f"ex={id}" in line.split() and line.endswith(LATER) for line in source.splitlines()) and id in unwritten(source)


def bodies(source: str) -> dict[str, Any]:
    """{id: the lines of its solution, without their indentation}."""
    return {region.id: body(source, region.id) for region in find(source) if region.solved}


def unwritten(source: str) -> dict[str, int]:
    """Exercises that a learner's file has not filled yet: {id: line}, lines counted from 1."""
    found = {}
    for number, line in enumerate(source.splitlines(), 1):
        if (stub := UNWRITTEN.match(line.strip())) is not None:
            found[stub["python"] or stub["c"]] = number
    return found


def named(message: str) -> Any:
    """Find the exercise that a message complains about, or None."""
    hit = NAMED.search(message)
    return hit and (hit[1] or f"{hit[2]}.{hit[3]}")


def _stub(source: str, region: Region, name: str) -> list[str]:
    if region.comment == "//":
        return [f"#error exercise {region.id} is not written yet"]
    stub = [f'raise NotImplementedError("exercise {region.id}")']
    if _on_device(source, region, name):
        call = f"todo_exercise_{region.id.replace('.', '_')}()"
        stub.insert(0, f"{call}  # noqa: F821  (a GPU cannot raise: this unknown name stops the compiler)")
    return stub


def parse(source: str, name: str = "<source>") -> ast.Module:  # -> syntax tree
    """Parse as ast.parse, one thread at a time.

    CPython 3.11 keeps the depth of the tree it builds in one place for all threads. Where a garbage collection runs Python in the
    middle, as hypothesis has it, another thread's tree spoils it: "AST constructor recursion depth mismatch".
    """
    with PARSING:
        return ast.parse(source, name)


def _on_device(source: str, region: Region, name: str) -> bool:
    """Whether the region is inside a function that a decorator sends to a GPU."""
    try:
        tree = parse(source, name)
    except SyntaxError as error:
        raise RegionError(f"{name}:{error.lineno}: {error.msg}; the source does not parse.") from None
    return any(
        "cuda" in ast.unparse(decorator)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.lineno <= region.first + 1 <= (node.end_lineno or 0)
        for decorator in node.decorator_list
    )
