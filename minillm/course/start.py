"""A learner's files: the sources that hold the chosen exercises, with those exercises emptied, and nothing else.

A file that is already there belongs to the learner. It is kept, word for word, except that a region of a newly started
lesson, still exactly the reference's, is emptied in place: lesson 02 may live in a file that lesson 01 has brought already.
"""

from pathlib import Path

from minillm.course import regions
from minillm.course.files import write
from minillm.course.index import CourseError


def start(course, ids, out, force=False):
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
            write(target, regions.blank(reference, only, file))
            continue
        report.append((file, _blank_more(target, reference, only)))
    return report


def _blank_more(target, reference, only):
    """Empty regions in a learner's file that still hold the reference's own text; leave everything else."""
    mine = target.read_text(encoding="utf-8")
    try:
        solved = {region.id for region in regions.find(mine) if region.solved} & only
        fresh = {id for id in solved if regions.body(mine, id) == regions.body(reference, id)}
        if fresh:
            write(target, regions.blank(mine, fresh, target.name))
            return "kept, and in it emptied " + ", ".join(sorted(fresh))
    except (regions.RegionError, SyntaxError):
        pass  # a file in the middle of an edit: hands off
    return "kept (yours; --force would overwrite it)"
