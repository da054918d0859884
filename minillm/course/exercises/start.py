"""A learner's files: the sources that hold the chosen exercises, with those exercises emptied, and nothing else.

Exercises of other lessons in the same files are emptied too, and marked (not started): see regions.settle. A file that is
already there belongs to the learner. It is kept, word for word, except that the mark of a newly started lesson is taken off, and
a region that is still exactly the reference's is emptied in place: lesson 02 may live in a file that lesson 01 has brought.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minillm.course.exercises import regions
from minillm.course.exercises.index import Course, CourseError
from minillm.files import write_text


def start(course: Course, ids: Sequence[str], out: Path, force: bool = False) -> list[tuple[str, str]]:
    """Write the blanked files of the exercises into folder out. Returns [(file, what happened)]."""
    out, report = Path(out), []
    if out.resolve() in (course.root.resolve(), course.package.resolve(), *course.package.resolve().parents):
        raise CourseError(f"{out} holds the reference itself; give a folder of your own with --work.")
    chosen = course.chosen(ids)
    if not chosen:
        raise CourseError("no exercises yet.")
    for file in dict.fromkeys(exercise.file for exercise in chosen):
        only = {exercise.id for exercise in chosen if exercise.file == file}
        reference, target = course.source(file), out / file
        if not target.exists() or force:
            report.append((file, "written anew" if target.exists() else "written"))
            write_text(target, regions.blank(reference, only, file, later=True))
            continue
        report.append((file, _blank_more(target, reference, only)))
    return report


def _blank_more(target: Any, reference: Any, only: Any) -> Any:
    """Begin regions in a learner's file, and empty what still holds the reference's own text; leave everything else."""
    mine = target.read_text(encoding="utf-8")
    try:
        found = [region for region in regions.find(mine) if region.id in only]
        fresh = {r.id for r in found if r.solved and regions.body(mine, r.id) == regions.body(reference, r.id)}
        if begun := fresh | {region.id for region in found if region.later}:
            write_text(target, regions.begin(regions.blank(mine, fresh, target.name), begun))
            return "kept, and in it begun " + ", ".join(sorted(begun))
    except (regions.RegionError, SyntaxError):
        pass  # a file in the middle of an edit: hands off
    return "kept (yours; --force would overwrite it)"
