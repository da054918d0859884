"""Which line of a learner's is at fault: where a file cannot be loaded, and where code never ends.

    work/metrics/events.py:119: SyntaxError: '(' was never closed
    work/sampling.py: keep_top_p is missing: was it renamed? (in the reference: line 84)
    work/cache/contiguous.py:72, in exercise 02.1, never ends
"""

import ast
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minillm.course.exercises import regions


@dataclass(frozen=True)
class Broken:
    """A file that cannot be loaded, or lacks what others import from it."""

    path: str | Path
    line: int | None
    why: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.why}" if self.line else f"{self.path}: {self.why}"


class Incomplete(ImportError):
    """A learner's module without a public function or class of the reference."""


def place(  # exception, learner's folder, the file that was being loaded -> Broken
    error: BaseException, folder: str | Path, path: str | Path
) -> Any:
    """Find the last line in the learner's folder that led to an exception."""
    why = f"{type(error).__name__}: {getattr(error, 'msg', None) or error}"
    if isinstance(error, Incomplete):
        return Broken(path, None, str(error))
    if isinstance(error, SyntaxError) and inside(error.filename or "", folder):
        return Broken(error.filename or path, error.lineno, why)
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if inside(frame.filename, folder)]
    return Broken(lines[-1].filename, lines[-1].lineno, why) if lines else Broken(path, None, why)


def complete(module: Any, path: str | Path, reference: Any) -> None:
    """Raise Incomplete where a module lacks a public function or class that the reference defines."""
    for node in ast.parse(reference.read_bytes()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and not hasattr(module, node.name):
            raise Incomplete(f"{node.name} is missing: was it renamed? (in the reference: line {node.lineno})")


def running(  # [[frame, ...], ...] from the innermost out, learner's folder -> (path, line) or None
    stacks: Any, folder: str | Path
) -> tuple[Any, int] | None:
    """Find the learner's frame that stays on the stack between several looks: the one whose loop never ends.

    What that loop calls is entered and left, so the frames further in differ from look to look.
    """
    kept = set.intersection(*({id(frame) for frame in stack} for stack in stacks))
    for frame in stacks[-1]:
        if id(frame) in kept and inside(frame.f_code.co_filename, folder):
            return frame.f_code.co_filename, frame.f_lineno
    return None


def exercise_at(path: Any, line: int) -> str:  # -> id, or "" where no exercise is
    """Find the exercise whose region holds a line."""
    try:
        found = regions.find(Path(path).read_text(encoding="utf-8", errors="replace"))
    except regions.RegionError:
        return ""
    return next((region.id for region in found if region.first < line <= region.last + 1), "")


def inside(path: Any, folder: str | Path) -> bool:
    return Path(path).is_absolute() and Path(path).resolve().is_relative_to(folder)
