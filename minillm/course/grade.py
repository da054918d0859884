"""Score a submission that nobody trusts.

For each exercise: lint the file; pack a box; run the tests in a child process under limits, as a user without rights where the
grader is root; kill everything the child started; and count what it reported. A test counts when the child planned it, reported
each of its cases as passed, and the machinery's seal was whole at the end. So a submission that exits, hangs, forks or fills
memory loses the exercise it does so in, and keeps what the others earn.

One process holds both the test and the code under test, so this is no wall: the wall is the container that the platform runs
it in. lessons/instructors.md says what remains possible.
"""

import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from minillm.course import regions
from minillm.course.box import locate, pack
from minillm.course.index import CourseError
from minillm.course.launch import launch, unprivileged
from minillm.course.lint import lint


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
    limits, scores, lintings, refused = limits or Limits(), Scores(), {}, {}
    submitted = locate(work, list(dict.fromkeys(exercise.file for exercise in course.exercises.values())), refused)
    user = unprivileged()
    if os.geteuid() == 0 and not user:
        scores.notes.append("ran as root: this Python is not readable for user 'nobody', so file permissions protect nothing")
    for exercise in course.chosen(ids):
        with tempfile.TemporaryDirectory(prefix="minillm-box-", ignore_cleanup_errors=True) as folder:
            box = pack(folder, course, submitted, private)
            tests = [test for test in box.course.tests if test.exercise == exercise.id]
            hidden = {path.name for path in Path(private).glob("test_*.py")} if private else set()
            own = [Score(exercise.id, f"{t.file}::{t.name}", t.points, hidden=t.file in hidden) for t in tests]
            scores.tests += own
            if exercise.file not in submitted:
                _say(own, refused.get(exercise.file, f"{exercise.file} was not submitted"))
                continue
            if check and exercise.file not in lintings:
                stub = regions.blank(course.source(exercise.file), name=exercise.file)
                lintings[exercise.file] = lint((box.submission / exercise.file).read_text(), stub, exercise.file)
            if found := lintings.get(exercise.file):
                _say(own, "refused before it ran: " + "; ".join(found[:5]))
                continue
            secret = [str(course.package), str(course.root / "tests"), *([str(private)] if private else [])]
            files = sorted({f"tests/{test.file}" for test in tests})
            orders = {"exercise": exercise.id, "seed": seed, "secret": secret, "files": files}
            orders |= {"seconds": limits.seconds, "memory": limits.memory_gb * 1e9, "time_limit": limits.time_limit}
            events, ending = launch(box, orders, limits, user)
            believe(own, events, ending)
    scores.seconds = time.monotonic() - began
    return scores


def believe(scores, events, ending):
    """Turn the events of one child into earned points: everything not reported in full is not earned."""
    plan, passed, words = {}, {}, {}
    for event in events:
        if event["event"] == "plan":
            plan = event["tests"]
        elif event["event"] == "outcome":
            if event["status"] == "passed":
                passed[event["test"]] = passed.get(event["test"], 0) + 1
            else:
                words.setdefault(event["test"], event["message"])
        elif event["event"] == "error":
            words["*"] = f"{event['file']}: {event['message'].splitlines()[-1].removeprefix('E').strip()}"
    broken = next((event["broken"] for event in events if event["broken"]), None)
    for score in scores:
        if broken:
            score.message = f"the submission replaced {broken}: nothing of this exercise counts"
        elif score.test in words or "*" in words:
            score.message = words.get(score.test) or words["*"]
        elif score.test in plan and passed.get(score.test) == plan[score.test]:
            score.earned, score.message, score.passed = score.points, "", True
        else:
            score.message = f"not reached: {ending}" if "gave no answer" in ending and score.test not in ending else ending


def _say(scores, message):
    for score in scores:
        score.message = message
