"""The outcome of each test of an exercise, and the table at the end.

A test that fails while its exercise is not written is a TODO, not a failure, however it failed: a stub inside a compiled kernel
may come out as a compiler's error or as garbage, so what counts is that the learner's file still holds the stub. A test that
trips over another exercise's stub is a TODO too, and says which one it needs; stubs name themselves in the exception or
in one that it was raised from.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minillm.course.exercises import regions
from minillm.course.exercises.index import order


@dataclass
class Outcome:
    test: str  # "test_03_flash_attention.py::test_tiles": the parametrized cases of a test are one
    exercise: str
    points: float
    status: str  # "passed", "failed", "todo", "skipped"
    message: str = ""
    kind: str = ""  # the exception's class
    hint: str = ""
    blamed: str = ""  # the exercise whose lines never ended, where a test ran out of time

    as_dict = asdict


def stubs(impl: Any, files: Any) -> Any:
    """{id: "work/layers.py:40"} for what is not written yet in a learner's files."""
    found = {}
    for path in (Path(impl) / file for file in files):
        if path.is_file():
            for id, line in regions.unwritten(path.read_text(encoding="utf-8", errors="replace")).items():
                found[id] = f"{path}:{line}"
    return found


def needs(exception: Any, own: Any, missing: Any) -> Any:
    """Find the unwritten exercise that explains a failure, or None where the failure is the learner's own."""
    if own in missing:
        return own
    return next((id for error in chain(exception) if (id := regions.named(str(error))) in missing), None)


def chain(exception: Any) -> Iterator[Any]:
    """List the exception, and all that it was raised from, wraps or groups."""
    queue, seen = [exception], set()
    while queue:
        error = queue.pop(0)
        if error is not None and id(error) not in seen:
            seen.add(id(error))
            yield error
            queue += [error.__cause__, error.__context__, *getattr(error, "exceptions", ())]


def judge(outcome: Any, exception: Any, missing: Any) -> Any:
    """Fill status, message and kind of an outcome from the exception of its test."""
    todo = needs(exception, outcome.exercise, missing)
    if todo:
        needed = f"; {outcome.exercise} needs it" if todo != outcome.exercise else ""
        outcome.status, outcome.message = "todo", f"exercise {todo} is not written yet ({missing[todo]}){needed}"
    else:
        outcome.status, outcome.kind = "failed", type(exception).__name__
        line = next((error.line for error in chain(exception) if isinstance(getattr(error, "line", None), str)), None)
        outcome.message = (str(exception) or f"{outcome.kind} without a message") + (f" ({line})" if line else "")
        outcome.blamed = getattr(exception, "exercise", "") if outcome.kind == "TimeLimit" else ""
    return outcome


def merge(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Merge to one outcome a test: of its cases, the first that did not pass."""
    merged: dict[str, Outcome] = {}
    for outcome in outcomes:
        if outcome.test not in merged or merged[outcome.test].status == "passed":
            merged[outcome.test] = outcome
    return list(merged.values())


def table(outcomes: Sequence[Outcome]) -> list[tuple[str, str]]:
    """Format the score table, a line for each exercise: (status, text); the total comes last."""
    rows, score, total = [], 0.0, 0.0
    outcomes = merge(outcomes)
    for id in sorted({outcome.exercise for outcome in outcomes}, key=order):
        own = [outcome for outcome in outcomes if outcome.exercise == id]
        earned, points = sum(o.points for o in own if o.status == "passed"), sum(o.points for o in own)
        worst = next((o for status in ("failed", "todo", "skipped") for o in own if o.status == status), None)
        status = worst.status if worst else "passed"
        word = {"passed": "done", "failed": "wrong", "todo": "todo", "skipped": "skipped"}[status]
        first = worst.message.splitlines()[0] if worst and worst.message else ""
        rows.append((status, f"{id:6} {word:8} {earned:>3g} of {points:<3g} {first[:100]}".rstrip()))
        score, total = score + earned, total + points
    return [*rows, ("total", f"{'':6} {'score':8} {score:>3g} of {total:<3g}".rstrip())]
