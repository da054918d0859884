"""One command, one exercise at a time, the next step always named: check, hint, status, solution.

Each function returns the lines to print. check runs the tests of the first exercise that is started and not done; when they
pass it goes on to the next, until one is not done yet.
"""

import textwrap
import time

from minillm.course import regions, runner
from minillm.course.index import SOURCES, CourseError
from minillm.course.lint import lint


def check(course, progress, ids=(), seed=0):
    """Test exercises until one is not done. Returns (lines, whether all that was asked for passed)."""
    course.need_tests()
    lines = []
    for exercise in _started(course, progress, ids):
        if not ids and progress.is_done(exercise):
            continue
        if not progress.is_written(exercise):
            return lines + _task(progress, exercise), False
        lines += _refused(course, progress, exercise, lines)
        result = runner.run(course, progress.work, [exercise.id], seed)
        if not result.passed:
            progress.reopen(exercise)
            return lines + _wrong(progress, exercise, result), False
        progress.finish(exercise)
        lines.append(f"{exercise.id}  done  {exercise.points:g} point{'s' * (exercise.points != 1)}  {exercise.title}")
    return lines + [_beyond(course, progress)], True


def _refused(course, progress, exercise, said):
    """What the grader's lint would say to the file; each sentence once."""
    stub = regions.blank(course.source(exercise.file), name=exercise.file)
    mine = (progress.work / exercise.file).read_text(encoding="utf-8-sig", errors="replace")
    found = [f"  the grader would refuse {line}" for line in lint(mine, stub, exercise.file) if "does not parse" not in line]
    return [line for line in found if line not in said]


def _task(progress, exercise):
    if progress.later(exercise):
        lesson = exercise.id[:2]
        return [
            f"{exercise.id}  to do  {exercise.title}",
            f"  it belongs to lesson {lesson}, which is not started: lessons/{exercise.lesson}.md",
            f"next: minillm course start {lesson} --out {progress.work}",
        ]
    lines = f"{exercise.lines} line{'s' * (exercise.lines != 1)}"
    return [
        f"{exercise.id}  to do  {exercise.title}",
        f"  write {exercise.function or 'the region'} in {progress.line(exercise)}, about {lines}",
        f"  lesson: lessons/{exercise.lesson}.md",
        f"next: {progress.command('check')}    (stuck? {progress.command('hint')})",
    ]


def _wrong(progress, exercise, result):
    passed = sum(o.status == "passed" for o in result.outcomes)
    lines = [f"{exercise.id}  not yet  {passed} of {len(exercise.tests)} tests pass  {progress.line(exercise)}"]
    lines += [f"  the tests could not run: {error}" for error in result.errors]
    for outcome in (o for o in result.outcomes if o.status != "passed"):
        lines.append(f"  {outcome.test.split('::')[1].removeprefix('test_').replace('_', ' ')}:")
        lines += textwrap.wrap(outcome.message.split("\nassert ")[0].split("\nFalsifying example")[0], 110,
                               initial_indent="    ", subsequent_indent="    ")[:8]  # fmt: skip
    more = len(exercise.hints) - progress.hints.get(exercise.id, 0)
    stuck = f"    (stuck? {progress.command('hint')}, {more} left)" if more else ""
    return [*lines, f"next: {progress.command('check')}{stuck}"]


def _beyond(course, progress):
    """Everything asked for is done: what now?"""
    left = [e for e in course.exercises.values() if progress.started(e) and not progress.is_done(e) and not progress.later(e)]
    if left:
        return f"next: {progress.command('check')}    ({left[0].id} is the first that is not done)"
    fresh = next((e for e in course.exercises.values() if e.tests and not (progress.started(e) and not progress.later(e))), None)
    if fresh:
        return f"all that you started is done. next: minillm course start {fresh.id[:2]} --out {progress.work}"
    return f"all exercises are done. next: {progress.command('status')}"


def current(course, progress):
    """The first exercise that is started and not done."""
    return next((e for e in _started(course, progress, ()) if not progress.is_done(e)), None)


def hint(course, progress, id=None):
    """Reveal one more hint of an exercise."""
    course.need_tests()
    exercise = _one(course, progress, id)
    if exercise is None:
        return [f"everything is done: no hint needed. next: {progress.command('status')}"]
    hints = exercise.hints
    shown = min(progress.hints.get(exercise.id, 0) + 1, len(hints))
    progress.hints[exercise.id] = shown
    progress.save()
    lines = [f"  hint {number} of {len(hints)}: {text}" for number, text in enumerate(hints[:shown], 1)]
    another = f"one more: {progress.command('hint')}"
    if shown == len(hints):
        another = f"that was the last; the reference: {progress.command('solution', exercise.id)}"
    return [f"{exercise.id}  {exercise.title}", *lines, f"next: {progress.command('check')}    ({another})"]


def status(course, progress):
    """A table of all exercises that have tests, with points."""
    lines, earned, total = [], 0, 0
    for exercise in course.exercises.values():
        if not exercise.tests and not progress.started(exercise):
            continue
        word = "-"
        if progress.started(exercise) and not progress.later(exercise):
            written = progress.is_written(exercise)
            word = "done" if progress.is_done(exercise) else "begun" if written else "to do"
        points = exercise.points if word == "done" else 0
        earned, total = earned + points, total + exercise.points
        seen = " (solution seen)" if exercise.id in progress.solutions else ""
        lines.append(f"{exercise.id:6} {word:6} {points:>3g} of {exercise.points:<3g} {exercise.file:28} {exercise.title}{seen}")
    return [*lines, f"{'':6} {'score':6} {earned:>3g} of {total:g}", _beyond(course, progress)]


def solution(course, progress, id, width=100):
    """The learner's lines beside the reference's; one after the other where the window is narrow."""
    exercise = _one(course, progress, id)
    reference = course.source(exercise.file)
    region = next(region for region in regions.find(reference) if region.id == exercise.id)
    if not region.solved:
        raise CourseError(f"the reference of {exercise.id} is not in this bundle; ask your instructor.")
    mine = progress.text(exercise).splitlines()
    theirs = regions.body(reference, exercise.id).splitlines()
    if exercise.id not in progress.solutions:
        progress.solutions.append(exercise.id)
        progress.save()
    widest = max(map(len, [*mine, *theirs, "yours"]))
    if 2 * widest + 3 > width:
        return [f"yours ({progress.line(exercise)})", *mine, "", f"reference ({exercise.file}:{exercise.line})", *theirs]
    rows = max(len(mine), len(theirs))
    left, right = ["yours", *mine, *[""] * (rows - len(mine))], ["reference", *theirs, *[""] * (rows - len(theirs))]
    return [f"{a:{widest}} | {b}".rstrip() for a, b in zip(left, right, strict=True)]


def watch(folder, again, pause=time.sleep):
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


def _started(course, progress, ids):
    exercises = [exercise for exercise in course.chosen(ids) if progress.started(exercise) and exercise.tests]
    if not any(id in course.exercises for id in ids):  # asked for by name, it is a TODO; else it is not meant
        exercises = [exercise for exercise in exercises if not progress.later(exercise)]
    if not exercises:
        which = ids[0][:2] if ids else next((e.id[:2] for e in course.exercises.values()), "01")
        start = f"minillm course start {which} --out {progress.work}"
        raise CourseError(f"nothing of that is started in {progress.work}; next: {start}")
    return exercises


def _one(course, progress, id):
    if id is None:
        return current(course, progress)
    if id not in course.exercises:
        raise CourseError(f"no exercise {id!r}; `minillm course status` lists them.")
    return _started(course, progress, [id])[0]
