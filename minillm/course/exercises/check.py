"""One command, one exercise at a time, the next step always named: check, hint, solution (status is in status.py).

Each function returns the lines to print. check runs the tests of the first exercise that is started and not done; when they
pass it goes on to the next, until one is not done yet.
"""

import ast
import shutil
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from minillm.course.exercises import broken, regions, runner
from minillm.course.exercises.index import SOURCES, Course, CourseError, Exercise
from minillm.course.exercises.progress import Progress
from minillm.course.grading.lint import lint
from minillm.course.paths import near


def check(course: Course, progress: Progress, ids: Sequence[str] = (), seed: int = 0) -> tuple[list[str], bool]:
    """Test exercises until one is not done. Returns (lines, whether all that was asked for passed)."""
    course.need_tests()
    warned: set[str] = set()
    lines: list[str] = []
    for exercise in started(course, progress, ids):
        if not ids and progress.is_done(exercise):
            continue
        if not progress.is_written(exercise):
            return lines + _task(course, progress, exercise) + _unparsed(progress, exercise), False
        lines += _refused(course, progress, exercise, lines)
        result = runner.run(course, progress.work, [exercise.id], seed)
        if not result.passed:
            progress.reopen(exercise)
            return lines + _wrong(course, progress, exercise, result), False
        progress.finish(exercise)
        lines.append(f"{exercise.id}  done  {exercise.points:g} point{'s' * (exercise.points != 1)}  {exercise.title}")
        lines += [f"  note: {said}; the reference took its place here" for said in result.broken if said not in warned]
        warned |= set(result.broken)
    return lines + [beyond(course, progress)], True


def _unparsed(progress: Progress, exercise: Exercise) -> list[str]:
    """A file with a place that is still empty may have an error in another one."""
    path = progress.work / exercise.file
    try:
        if path.suffix == ".py":
            ast.parse(path.read_text(encoding="utf-8-sig", errors="replace"))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        why = f"{type(error).__name__}: {getattr(error, 'msg', error)}"
        return [f"  note: {broken.Broken(near(path), getattr(error, 'lineno', None), why)}"]
    return []


def _refused(course: Course, progress: Progress, exercise: Exercise, said: Any) -> list[str]:
    """List what the grader's lint would say to the file; each sentence once."""
    stub = regions.blank(course.source(exercise.file), name=exercise.file)
    mine = (progress.work / exercise.file).read_text(encoding="utf-8-sig", errors="replace")
    found = [f"  the grader would refuse {line}" for line in lint(mine, stub, exercise.file) if "does not parse" not in line]
    return [line for line in found if line not in said]


def welcome(course: Course, progress: Progress, ids: Sequence[str]) -> list[str]:
    """Say after `start` which lesson to read, and where to write first."""
    lessons = [f"lesson: {lesson}" for lesson in dict.fromkeys(_lesson(course, e) for e in course.chosen(ids)) if lesson]
    first = next((e for e in course.chosen(ids) if not progress.is_done(e)), None)
    if first is None:
        return [*lessons, beyond(course, progress)]
    return [*lessons, f"{first.id}  to do  {first.title}", *_place(progress, first), f"next: {progress.command('check')}"]


def _task(course: Course, progress: Progress, exercise: Exercise) -> list[str]:
    lesson = _lesson(course, exercise)
    if progress.later(exercise):
        return [
            f"{exercise.id}  to do  {exercise.title}",
            f"  it belongs to lesson {exercise.id[:2]}, which is not started: {lesson}",
            f"next: {progress.command('start', exercise.id[:2])}",
        ]
    return [
        f"{exercise.id}  to do  {exercise.title}",
        *_place(progress, exercise),
        *([f"  lesson: {lesson}"] if lesson else []),
        f"next: {progress.command('check')}    (stuck? {progress.command('hint')})",
    ]


def _place(progress: Progress, exercise: Exercise) -> list[str]:
    lines = f"{exercise.lines} line{'s' * (exercise.lines != 1)}"
    return [f"  write {exercise.function or 'the region'} in {progress.line(exercise)}, about {lines}"]


def _lesson(course: Course, exercise: Exercise) -> str:
    path = course.root / "lessons" / f"{exercise.lesson}.md"
    return str(near(path)) if path.is_file() else ""


def _wrong(course: Course, progress: Progress, exercise: Exercise, result: Any) -> list[str]:
    failed = [outcome for outcome in result.outcomes if outcome.status != "passed"]
    unloaded = next((outcome.message for outcome in failed if outcome.message in result.broken), None)
    if unloaded:  # every test says the same: the file is to be mended first
        lines = [f"{exercise.id}  not yet  its file cannot be loaded", *_wrapped(unloaded, "  ")]
        return [*lines, f"next: {progress.command('check')}"]
    lines = []
    blamed = next((course.exercises.get(outcome.blamed) for outcome in failed if outcome.blamed), None)
    if blamed and blamed != exercise:  # this exercise may be right: it only met a loop elsewhere
        progress.reopen(blamed)
        lines.append(f"{blamed.id}  not yet  its lines never end: the tests of {exercise.id} met that  {progress.line(blamed)}")
    passed = sum(o.status == "passed" for o in result.outcomes)
    lines.append(f"{exercise.id}  not yet  {passed} of {len(exercise.tests)} tests pass  {progress.line(exercise)}")
    lines += [f"  the tests could not run: {error}" for error in result.errors]
    for outcome in failed:
        lines.append(f"  {outcome.test.split('::')[1].removeprefix('test_').replace('_', ' ')}:")
        lines += _wrapped(outcome.message.split("\nassert ")[0].split("\nFalsifying example")[0], "    ")[:8]
    if any(outcome.kind == "TimeLimit" for outcome in failed):
        lines.append("  (no more tests were run)")
    more = len(exercise.hints) - progress.hints.get(exercise.id, 0)
    stuck = f"    (stuck? {progress.command('hint')}, {more} left)" if more else ""
    return [*lines, f"next: {progress.command('check')}{stuck}"]


def _wrapped(text: str, indent: str) -> list[str]:
    width = min(110, max(60, shutil.get_terminal_size((110, 24)).columns))
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False)


def beyond(course: Course, progress: Progress) -> str:
    """Say what comes next, when everything asked for is done."""
    left = [e for e in course.exercises.values() if progress.begun(e) and not progress.is_done(e)]
    if left:
        return f"next: {progress.command('check')}    ({left[0].id} is the first that is not done)"
    fresh = next((e for e in course.exercises.values() if e.tests and not progress.begun(e)), None)
    if fresh:
        return f"all that you started is done. next: {progress.command('start', fresh.id[:2])}"
    return f"all exercises are done. next: {progress.command('status')}"


def hint(course: Course, progress: Progress, ids: Sequence[str] = ()) -> list[str]:
    """Reveal one more hint: of an exercise that is named, or of the first that is not done (in the lessons that are named)."""
    course.need_tests()
    asked = started(course, progress, ids)
    exercise = asked[0] if len(asked) == 1 and ids else next((e for e in asked if not progress.is_done(e)), None)
    if exercise is None:
        return [f"everything is done: no hint needed. next: {progress.command('status')}"]
    hints = exercise.hints
    shown = min(progress.hints.get(exercise.id, 0) + 1, len(hints))
    progress.hints[exercise.id] = shown
    progress.save()
    lines = [f"  hint {number} of {len(hints)}: {text}" for number, text in enumerate(hints[:shown], 1)]
    another = f"one more: {progress.command('hint', *ids)}"
    if shown == len(hints):
        another = f"that was the last; the reference: {progress.command('solution', exercise.id)}"
    return [f"{exercise.id}  {exercise.title}", *lines, f"next: {progress.command('check')}    ({another})"]


def solution(course: Course, progress: Progress, ids: Sequence[str] = (), width: int = 100) -> list[str]:
    """Show the learner's lines beside the reference's, of named exercises, or of the first that is not done."""
    asked = started(course, progress, ids)
    if not ids:
        asked = [next((e for e in asked if not progress.is_done(e)), asked[-1])]
    if len(asked) == 1:
        return _beside(course, progress, asked[0], width)
    lines = []
    for exercise in asked:
        lines += [f"{exercise.id}  {exercise.title}", *_beside(course, progress, exercise, width), ""]
    return lines[:-1]


def _beside(course: Course, progress: Progress, exercise: Exercise, width: int) -> list[str]:
    """Lay out two columns; one after the other where the window is narrow."""
    reference = course.source(exercise.file)
    region = next(region for region in regions.find(reference) if region.id == exercise.id)
    if not region.solved:
        raise CourseError(f"the reference of {exercise.id} is not in this bundle; ask your instructor.")
    mine = progress.text(exercise).splitlines()
    theirs = (regions.body(reference, exercise.id) or "").splitlines()
    if exercise.id not in progress.solutions:
        progress.solutions.append(exercise.id)
        progress.save()
    widest = max(map(len, [*mine, *theirs, "yours"]))
    if 2 * widest + 3 > width:
        place = f"{near(course.package / exercise.file)}:{exercise.line}"
        return [f"yours ({progress.line(exercise)})", *mine, "", f"reference ({place})", *theirs]
    rows = max(len(mine), len(theirs))
    left, right = ["yours", *mine, *[""] * (rows - len(mine))], ["reference", *theirs, *[""] * (rows - len(theirs))]
    return [f"{a:{widest}} | {b}".rstrip() for a, b in zip(left, right, strict=True)]


def watch(folder: Path, again: Callable[[], Any], pause: Callable[[float], Any] = time.sleep) -> None:
    """Call again() now and whenever a file in folder is saved, until it returns True or the learner presses Ctrl-C."""
    seen = None
    while True:
        files = [path for path in folder.rglob("*") if path.is_file() and path.name[0] != "." and path.suffix in SOURCES]
        now = {path: path.stat().st_mtime_ns for path in files}
        if now != seen:
            seen = now
            if again():
                return
        pause(0.3)


def started(course: Course, progress: Progress, ids: Sequence[str] = ()) -> Any:
    """Select those of the named exercises (all, for none) that are in the learner's folder; CourseError where none is."""
    exercises = [exercise for exercise in course.chosen(ids) if progress.started(exercise) and exercise.tests]
    if not any(id in course.exercises for id in ids):  # asked for by name, it is a TODO; else it is not meant
        exercises = [exercise for exercise in exercises if not progress.later(exercise)]
    if not exercises:
        chosen = course.chosen(ids)
        which = chosen[0].id[:2] if chosen else "01"
        raise CourseError(f"nothing of that is started in {progress.work}; next: {progress.command('start', which)}")
    return exercises
