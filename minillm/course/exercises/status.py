"""Where a learner stands: the lesson at hand in full, the others in a line, the points, the next step.

    lesson 01: lessons/01_inference.md
    01.1   done     3 of 3   Divide each vector by its root mean square, then scale each component by its weight.
    01.2   to do    0 of 3   Rotary position embedding: turn pair i of each head's vector at position p by the…
    score           2 of 138
"""

import textwrap
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from minillm.course.exercises.check import beyond
from minillm.course.exercises.index import Course, Exercise
from minillm.course.exercises.progress import Progress
from minillm.course.paths import near


def status(course: Course, progress: Progress, ids: Sequence[str] = (), everything: bool = False, width: int = 80) -> list[str]:
    """Format the status in at most `width` columns: the named lessons, or the one at hand, or all (everything)."""
    lessons = {}
    for number, group in groupby(course.exercises.values(), lambda exercise: exercise.id[:2]):
        if shown := [exercise for exercise in group if exercise.tests or progress.started(exercise)]:
            lessons[number] = shown
    if ids:
        here = {exercise.id[:2] for exercise in course.chosen(ids)}
    else:
        here = set(lessons) if everything else {at_hand(lessons, progress)}
    lines = []
    for number, exercises in lessons.items():
        if number in here:
            path = course.root / "lessons" / f"{exercises[0].lesson}.md"
            lines.append(f"lesson {number}" + (f": {near(path)}" if path.is_file() else ""))
            lines += [_row(exercise, progress, width) for exercise in exercises]
    earned = {number: sum(map(progress.points, exercises)) for number, exercises in lessons.items()}
    total = {number: sum(exercise.points for exercise in exercises) for number, exercises in lessons.items()}
    if others := [number for number in lessons if number not in here]:
        told = " · ".join(f"{number} {earned[number]:g}/{total[number]:g}" for number in others)
        lines += textwrap.wrap(f"others: {told}", width, subsequent_indent="        ")
        lines.append(f"        ({progress.command('status', '--all')} lists their exercises)")
    return [*lines, f"{'score':13} {sum(earned.values()):>3g} of {sum(total.values()):g}", beyond(course, progress)]


def at_hand(lessons: Any, progress: Progress) -> Any:
    """Find the lesson of the first exercise that is started and not done; where all is done, the last that was started."""
    begun = [number for number, exercises in lessons.items() if any(map(progress.begun, exercises))]
    left = [n for n in begun if any(progress.begun(e) and not progress.is_done(e) for e in lessons[n])]
    return (left or begun[-1:] or list(lessons)[:1] or [None])[0]


def _row(exercise: Exercise, progress: Progress, width: int) -> str:
    word = "-"
    if progress.begun(exercise):
        word = "done" if progress.is_done(exercise) else "begun" if progress.is_written(exercise) else "to do"
    seen = "(solution seen) " if exercise.id in progress.solutions else ""
    line = f"{exercise.id:6} {word:6} {progress.points(exercise):>3g} of {exercise.points:<3g} {seen}{exercise.title}"
    return line if len(line) <= width else f"{line[: width - 1]}…"
