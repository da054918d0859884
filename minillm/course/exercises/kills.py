"""The kill table: which wrong solution is caught by which test, and with what words.

A wrong solution is a file tests/wrong/NN_name/<id>_<slug>.py: a docstring of one line that names the misconception, then the
lines that take the place of the exercise's region (for CUDA C: .cu, a // comment first). It holds no copy of anything else, so
it stays in step with the reference. A test suite is worth what it catches, and it must not refuse what is right in another form:
tests/right/ holds such answers, in the same format.
"""

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minillm.course.exercises import regions, runner, warm
from minillm.course.exercises.index import Course, CourseError, wanted
from minillm.course.exercises.runner import Result
from minillm.files import write_text

DOC = re.compile(r'"""(?P<python>[^"]+?)"""\n|//\s*(?P<c>.+)\n')


@dataclass
class Wrong:
    """One wrong solution."""

    path: Path
    exercise: str
    misconception: str
    body: str


@dataclass
class Kill:
    exercise: str
    wrong: str  # the file's slug
    misconception: str
    test: str = ""  # the first that failed with words that help, or else the first that failed
    message: str = ""
    helpful: bool = False
    lost: float = 0.0  # points

    as_dict = asdict

    @property
    def caught(self) -> bool:
        return bool(self.test)


def wrongs(course: Course, ids: Sequence[str] = (), kind: str = "wrong") -> list[Wrong]:
    """List the wrong solutions of the chosen exercises, in order; or those that are right in another form (kind "right")."""
    found, ids = [], course.choice(ids)
    for path in sorted((course.root / "tests" / kind).glob("*/*")):
        if path.suffix not in (".py", ".cu"):
            continue
        id, _, slug = path.stem.partition("_")
        text = path.read_text(encoding="utf-8")
        doc = DOC.match(text)
        if not doc or not slug:
            raise CourseError(f"{path}: name it ID_slug{path.suffix}, and begin with one line that names the misconception.")
        if id not in course.exercises:
            raise CourseError(f"{path}: there is no exercise {id}.")
        if not ids or wanted(id, ids):
            found.append(Wrong(path, id, (doc["python"] or doc["c"]).strip(), text[doc.end() :]))
    return found


def kills(course: Course, ids: Sequence[str] = (), workers: int | None = None) -> Iterator[Kill]:
    """Try every wrong solution; yields a Kill for each, in order. CourseError where the reference fails its own tests."""
    right(course, ids)
    with ThreadPoolExecutor(workers or min(4, os.cpu_count() or 1)) as pool:
        yield from pool.map(lambda wrong: attempt(course, wrong), wrongs(course, ids))


def right(course: Course, ids: Sequence[str]) -> Any:
    """Raise CourseError unless the reference passes: a test that fails every solution kills nothing."""
    chosen = course.chosen(ids)
    with tempfile.TemporaryDirectory() as folder:
        for file in {exercise.file for exercise in chosen}:
            write_text(Path(folder) / file, course.source(file))
        result = runner.run(course, folder, [exercise.id for exercise in chosen if exercise.tests])
    failed = [f"{o.test}: {o.message.splitlines()[0]}" for o in result.outcomes if o.status == "failed"]
    if problems := [*result.errors, *failed]:
        raise CourseError(f"the reference fails {len(problems)} of its own tests, so the table would say nothing: {problems[0]}")


def trial(course: Course, wrong: Wrong) -> Result:  # -> runner.Result
    """Run the exercise's tests against the reference with one region replaced."""
    start = warm.run if warm.possible() else runner.cold
    file = course.exercises[wrong.exercise].file
    with tempfile.TemporaryDirectory() as folder:
        write_text(Path(folder) / file, regions.fill(course.source(file), wrong.exercise, wrong.body))
        return runner.run(course, folder, [wrong.exercise], start=start)


def attempt(course: Course, wrong: Wrong) -> Kill:
    """Try one wrong solution."""
    result = trial(course, wrong)
    kill = Kill(wrong.exercise, wrong.path.stem.partition("_")[2], wrong.misconception)
    failed = [outcome for outcome in result.outcomes if outcome.status == "failed"]
    kill.lost = sum(outcome.points for outcome in failed)
    best = next((outcome for outcome in failed if helps(outcome)), failed[0] if failed else None)
    if best:
        kill.test, kill.message, kill.helpful = best.test, best.message, helps(best)
    elif result.errors:
        raise CourseError(f"{wrong.path}: its tests could not run: {result.errors[0]}")
    return kill


def helps(outcome: Any) -> Any:
    """Whether a failure says what was expected: check_close does; so does an assert with words; a bare assert does not."""
    if outcome.kind == "AssertionError":
        return not re.match(r"(assert\b|AssertionError without)", outcome.message)
    return outcome.kind in ("Mismatch", "TimeLimit", "Failed")  # Failed: pytest.fail, pytest.raises


def show_kill(kill: Kill) -> str:
    """Format one entry of the table."""
    head = f"{kill.exercise:6} {kill.wrong:32} {'caught by ' + kill.test if kill.caught else 'NOT CAUGHT'}"
    words = kill.message.splitlines()[0] if kill.message else kill.misconception
    return f"{head}\n       {'' if kill.helpful or not kill.caught else '(words that do not help) '}{words[:150]}"
