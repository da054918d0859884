"""The index of exercises, read from the two places that must exist anyway, and kept nowhere else.

    the sources    ids, files, sizes; and the title, which is the first line of the docstring around the region
    the tests      points and hints: @exercise("03.2", points=2, hint="...") on each test; an exercise is worth the sum

A third file with titles and points would have to be kept in step with both. The tests are parsed, never imported: the index
costs milliseconds and needs neither pytest nor numba. So the arguments of @exercise must be literals.
"""

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

from minillm.course.exercises import regions
from minillm.course.exercises.regions import Region
from minillm.errors import MiniLLMError

SOURCES = {".py", ".cu", ".cuh", ".c", ".h", ".cpp"}
KERNEL = re.compile(r"(\w+)\s*\([^;]*$")
ID = re.compile(r"(?P<lesson>\d{1,2})(?:\.(?P<number>\d+)|-(?P<last>\d{1,2}))?(?:_\w+)?")


class CourseError(MiniLLMError):
    """A lesson, an exercise or a file of the course that is not there or not as it should be."""


@dataclass(frozen=True)
class Test:
    """One test of an exercise: a test function, or a class, earns its points whole or not at all."""

    __test__ = False  # not one of pytest's

    exercise: str
    file: str  # relative to tests/
    name: str
    points: float
    hints: tuple


@dataclass(frozen=True)
class Exercise:
    id: str
    file: str  # relative to the package, with /
    line: int  # of the BEGIN mark, from 1
    lines: int  # of code in the reference solution
    function: str
    title: str
    lesson: str  # "03_flash_attention", or "03" where no lesson is written
    tests: tuple

    @property
    def points(self) -> int:
        return sum(test.points for test in self.tests)

    @property
    def hints(self) -> list[str]:
        return list(dict.fromkeys(hint for test in self.tests for hint in test.hints))

    @property
    def module(self) -> str:
        return "minillm." + self.file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def order(id: str) -> tuple[int, ...]:
    """Sort key: 02.10 comes after 02.9."""
    return tuple(int(part) for part in id.split("."))


def wanted(id: str, choice: Sequence[str]) -> bool:
    """Whether exercise id is chosen by any of "03" (the lesson) or "03.2"."""
    return any(id == one or id.startswith(one + ".") for one in choice)


@dataclass(frozen=True)
class Course:
    """A package with exercises, and the folder that holds its tests/ and lessons/."""

    package: Path = Path(__file__).resolve().parents[2]
    root: Path = Path(__file__).resolve().parents[3]

    @cached_property
    def exercises(self) -> dict[str, Exercise]:
        """{id: Exercise} in order."""
        found: dict[str, Exercise] = {}
        for path in sorted(self.package.rglob("*")):
            inner = path.relative_to(self.package)
            if path.suffix not in SOURCES or inner.parts[0] == "course":
                continue
            source = path.read_text(encoding="utf-8")
            if "BEGIN" not in source:
                continue
            for region in regions.find(source, str(path)):
                if region.later:  # a bundle holds it as a stub; it is no exercise there
                    continue
                if region.id in found:
                    where = found[region.id].file
                    raise regions.RegionError(f"{path}:{region.first + 1}: exercise {region.id} is in {where} already.")
                found[region.id] = self._exercise(region, inner.as_posix(), source)
        return dict(sorted(found.items(), key=lambda pair: order(pair[0])))

    @cached_property
    def tests(self) -> list[Test]:
        """Every test that carries @exercise, in the order of the files."""
        return [test for path in sorted((self.root / "tests").glob("test_*.py")) for test in read_marks(path)]

    @cached_property
    def lessons(self) -> dict[str, str]:
        """{"03": "03_flash_attention"} for the lessons that are written."""
        return {path.stem[:2]: path.stem for path in sorted((self.root / "lessons").glob("[0-9][0-9]_*.md"))}

    def chosen(self, ids: Sequence[str]) -> list[Exercise]:
        """Select exercises by lessons ("01", "1"), ranges ("01-04") or ids ("01.2"); all of them for no ids."""
        choice = self.choice(ids)
        return [exercise for exercise in self.exercises.values() if not choice or wanted(exercise.id, choice)]

    def choice(self, ids: Sequence[str]) -> list[str]:
        """Normalize the spelling: lessons "01" and exercises "01.2". A range may span lessons without exercises."""
        choice = []
        for asked in ids:
            found = [one for one in expand(asked) if any(wanted(id, [one]) for id in self.exercises)]
            if not found:
                have = ", ".join(sorted({id[:2] for id in self.exercises})) or "none yet"
                raise CourseError(f"no exercise or lesson {short(asked)}; lessons with exercises: {have}.")
            choice += found
        return choice

    def need_tests(self) -> None:
        if not self.tests:
            tests = self.root / "tests"
            raise CourseError(f"no tests of exercises in {tests}: run this in a clone of minillm or in an unpacked bundle.")

    def source(self, file: str) -> str:
        return (self.package / file).read_text(encoding="utf-8")

    def _exercise(self, region: Region, file: str, source: str) -> Exercise:
        function, title = _around(source, region)
        lesson = self.lessons.get(region.id[:2], region.id[:2])
        tests = tuple(test for test in self.tests if test.exercise == region.id)
        return Exercise(region.id, file, region.first + 1, region.lines, function, title, lesson, tests)


def short(text: str, limit: int = 40) -> str:  # what a person typed, for a message of one line
    return repr(text) if len(text) <= limit else f"{text[:limit]!r}… ({len(text):,} characters)"


def expand(id: str) -> list[str]:  # -> [id]
    """Parse what a person may type: "1", "01", "01_inference", "1.2", "01.2", "1-3"; an empty list where it is none of these."""
    typed = ID.fullmatch(id.strip())
    if typed is None:
        return []
    lesson = int(typed["lesson"])
    if typed["number"]:
        return [f"{lesson:02d}.{int(typed['number'])}"]
    return [f"{number:02d}" for number in range(lesson, int(typed["last"] or lesson) + 1)]


def read_marks(path: Path) -> list[Test]:
    """Read the tests of a file that carry @exercise(...), or are built by exercise(...)(class)."""
    source = path.read_text(encoding="utf-8")
    return _marks(source, path) if "exercise(" in source else []  # most files mark none


@cache  # by what the file holds: a fork server has parsed it before its children start (warm.py)
def _marks(source: str, path: Path) -> list[Test]:
    tests = []
    for node in regions.parse(source, str(path)).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name, calls = node.name, node.decorator_list
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and isinstance(node.targets[0], ast.Name):
            name, calls = node.targets[0].id, [node.value.func]
        else:
            continue
        tests += [_mark(call, name, path) for call in calls if isinstance(call, ast.Call) and _called(call) == "exercise"]
    return tests


def _called(call: ast.Call) -> str | None:
    return getattr(call.func, "id", getattr(call.func, "attr", None))


def _mark(call: ast.Call, name: str, path: Path) -> Test:
    try:
        values = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
        (id,) = (ast.literal_eval(argument) for argument in call.args)
    except ValueError:
        where = f"{path}:{call.lineno}"
        raise CourseError(f"{where}: @exercise takes one id and literal values; the index reads them unrun.") from None
    hints = values.get("hint", ())
    return Test(id, path.name, name, values.get("points", 1), (hints,) if isinstance(hints, str) else tuple(hints))


_parsed = lru_cache(maxsize=1)(regions.parse)  # the regions of a file come one after another


@cache
def _around(source: str, region: Region) -> tuple[str, str]:
    """Name and title of the function around a region: from Python's syntax tree, or for CUDA C from the lines above."""
    if region.comment == "#":
        best: Any = None
        path: list[str] = []

        def walk(node: ast.AST, names: list[str]) -> None:
            nonlocal best, path
            for child in ast.iter_child_nodes(node):
                end = getattr(child, "end_lineno", 0)
                if isinstance(child, ast.FunctionDef | ast.ClassDef) and child.lineno <= region.first + 1 <= end:
                    best, path = child, [*names, child.name]
                    walk(child, path)

        tree = _parsed(source)
        walk(tree, [])
        lines = (ast.get_docstring(best or tree) or "").splitlines()
        return ".".join(path), lines[0] if lines else ""
    above = source.splitlines()[: region.first]
    for number in range(len(above) - 1, -1, -1):
        if (head := KERNEL.search(above[number])) and not above[number][0].isspace():
            comment = above[number - 1].strip() if number else ""
            return head[1], comment.removeprefix("//").strip() if comment.startswith("//") else ""
    return "", ""
