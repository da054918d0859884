"""Score an untrusted submission.

For each exercise: lint the file; pack a box for the submission; start a judge, which runs the tests and calls the submission
across a wall (judge.py); kill everything that was started; and count what the judge reported. A test counts when the judge
planned it and reported each of its cases as passed. The submission's process can reach neither the judge nor what it says: one
that exits, hangs, forks or fills memory loses the test it does so in, and a file that does not load costs its own exercises.

lessons/instructors.md says what stands on which platform.
"""

import contextlib
import functools
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from minillm.course.exercises import regions
from minillm.course.exercises.index import Course, CourseError
from minillm.course.grading.box import locate, pack_child, pack_judge
from minillm.course.grading.launch import launch
from minillm.course.grading.lint import lint


@dataclass(frozen=True)
class Limits:
    seconds: float = 60  # wall clock of one exercise; CPU time twice that
    memory_gb: float = 4
    time_limit: float = 20  # of one test


@dataclass
class Score:
    """One test, scored by the parent."""

    exercise: str
    test: str
    points: float
    earned: float = 0
    message: str = "the process ended before this test was reported"
    hidden: bool = False  # a private test
    passed: bool = False  # not the same as full points: a test may be worth none


@dataclass
class Scores:
    tests: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    seconds: float = 0.0  # that grading took

    @property
    def earned(self):
        return sum(score.earned for score in self.tests)

    @property
    def points(self):
        return sum(score.points for score in self.tests)


def grade(course, work, ids=(), seed=0, private=None, check=True, limits=None):
    """Score the exercises (all, or those chosen by ids) of a submission in folder work. Returns Scores."""
    if not hasattr(os, "fork"):
        raise CourseError("grade needs Linux or macOS: it limits its children with the system's own means.")
    if not Path(work).is_dir():
        raise CourseError(f"no folder {work} to grade.")
    if private and not Path(private).is_dir():
        raise CourseError(f"no folder {private} with private tests.")
    course.need_tests()
    began = time.monotonic()
    limits, scores, refused = limits or Limits(), Scores(), {}
    found = locate(work, list(dict.fromkeys(exercise.file for exercise in course.exercises.values())), refused)
    submitted = {file: path.read_text(encoding="utf-8-sig", errors="replace") for file, path in found.items()}
    refused = {file: why for file, why in refused.items() if file not in found}
    hidden = {path.name for path in Path(private).glob("test_*.py")} if private else set()
    with temporary() as folder:
        box = pack_judge(folder, course, private)
        tests = Course(box.root / "minillm", box.root).tests
        for exercise in course.chosen(ids):
            own = [test for test in tests if test.exercise == exercise.id]
            rows = [Score(exercise.id, f"{t.file}::{t.name}", t.points, hidden=t.file in hidden) for t in own]
            scores.tests += rows
            if exercise.file not in submitted:
                _say(rows, refused.get(exercise.file, f"{exercise.file} was not submitted"))
            elif todo := untouched(course, exercise, submitted[exercise.file]):
                _say(rows, todo)
            elif check and (objections := linted(course, exercise.file, submitted[exercise.file])):
                _say(rows, "refused before it ran: " + "; ".join(objections[:5]))
            else:
                secret = [str(course.package), str(course.root / "tests"), str(box.root), *([str(private)] if private else [])]
                lent = {file: lend(course, file, text, exercise.id) for file, text in submitted.items()}
                with temporary() as child:
                    orders = orders_for(course, exercise, lent, seed, limits, secret)
                    orders["box"] = str(pack_child(child, course, lent).root)
                    orders["files"] = sorted({f"tests/{test.file}" for test in own})
                    events, ending = launch(box, orders, limits.seconds)
                believe(rows, events, ending)
                scores.notes += [note for note in lacks(events) if note not in scores.notes]
    scores.seconds = time.monotonic() - began
    return scores


def orders_for(course, exercise, submitted, seed, limits, secret):
    """Make the orders for the judge of an exercise, and through it for the child (judge.py, child.py)."""
    functions, modules = [], []
    region = next(region for region in regions.find(course.source(exercise.file)) if region.id == exercise.id)
    if region.comment == "//":
        folder, inside = (course.package / exercise.file).parent, exercise.file.endswith(".py")
        files = [course.package / exercise.file] if inside else sorted(folder.glob("*.py"))
        inner = [path.relative_to(course.package.parent).with_suffix("") for path in files if path.stem != "__init__"]
        modules = [".".join(path.parts) for path in inner]
    else:
        functions = [f"{exercise.module}:{exercise.function}"]
    missing = {}
    for file, text in submitted.items():
        missing |= {id: f"{file}:{line}" for id, line in regions.unwritten(text).items()}
    child = {"module": functions[0].partition(":")[0] if functions else modules[0], "file": exercise.file, "functions": functions,
             "secret": secret, "seconds": limits.seconds, "memory": limits.memory_gb * 1e9}  # fmt: skip
    return {"exercise": exercise.id, "seed": seed, "time_limit": limits.time_limit, "missing": missing, "functions": functions,
            "modules": modules, "child": child}  # fmt: skip


def untouched(course, exercise, text):
    """Explain a region that is still the stub, for which no process is needed; None for any other."""
    line = regions.unwritten(text).get(exercise.id)
    try:
        same = line and regions.body(text, exercise.id) == regions.body(regions.blank(course.source(exercise.file)), exercise.id)
    except regions.RegionError:
        return None
    return f"exercise {exercise.id} is not written yet ({exercise.file}:{line})" if same else None


@functools.lru_cache(maxsize=256)
def linted(course, file, text):
    """List what the lint objects to. A file that it cannot read affects that file alone."""
    try:
        return lint(text, regions.blank(course.source(file), name=file), file)
    except Exception as error:
        return [f"{file}: cannot be read ({type(error).__name__}: {str(error)[:100]})"]


def lend(course, file, text, exercise):
    """Fill exercises of lessons that were not started with the reference's lines, but for the one graded."""
    return regions.settle(text, regions.bodies(course.source(file)), {exercise})[0]


@contextlib.contextmanager
def temporary():
    """Make a folder that is removed afterwards, with all in it: folders nested beyond Python's recursion too."""
    folder = tempfile.mkdtemp(prefix="minillm-box-")
    try:
        yield folder
    finally:
        subprocess.run(["rm", "-rf", "--", folder], check=False, stderr=subprocess.DEVNULL)


def lacks(events):
    """List what the child's wall lacks on this machine."""
    return [note for event in events if event["event"] == "wall" for note in event["lacks"]]


def believe(scores, events, ending):
    """Turn the events of a judge into earned points: everything not reported in full is not earned."""
    plan, passed, words = {}, {}, {}
    for event in events:
        if event["event"] == "plan":
            plan = event["tests"]
        elif event["event"] == "outcome":
            if event["status"] == "passed":
                passed[event["test"]] = passed.get(event["test"], 0) + 1
            else:
                words.setdefault(event["test"], event["message"])
        elif event["event"] == "broken":
            words["*"] = event["message"]
        elif event["event"] == "error":
            words["*"] = f"{event['file']}: {event['message'].splitlines()[-1].removeprefix('E').strip()}"
    for score in scores:
        if score.test in words or "*" in words:
            score.message = words.get(score.test) or words["*"]
        elif score.test in plan and passed.get(score.test) == plan[score.test]:
            score.earned, score.message, score.passed = score.points, "", True
        else:
            score.message = f"not reached: {ending}" if ending.startswith("no answer") else ending


def _say(scores, message):
    for score in scores:
        score.message = message
