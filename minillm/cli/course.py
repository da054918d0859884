"""minillm course: the exercises, from a learner's first `start` to an instructor's `grade`."""

import shutil
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from minillm.cli.arguments import Parser

if TYPE_CHECKING:
    from minillm.course.exercises.index import Course

HELP = "the exercises: start, check, hint, status, solution; and for instructors release, grade, kills, notebooks, figures"


def configure(parser: Parser) -> None:
    from minillm.course.notebooks import build, figures

    commands = parser.add_subparsers(metavar="ACTION", required=True)

    def command(act: Callable, help: str, ids: str | None = None, work: bool = True) -> Parser:  # of the action
        sub = commands.add_parser(act.__name__.strip("_"), help=help, description=help)
        sub.set_defaults(act=act, learner=work)
        if ids:
            sub.add_argument("ids", nargs=ids, metavar="ID", help="a lesson (1 or 01), a range (01-04), an exercise (01.2)")
        if work:
            sub.add_argument("--work", type=Path, default=Path("work"), metavar="DIR", help="your folder (work)")
        return sub

    start = command(_start, "write the files of a lesson's exercises, emptied, into your folder", "+")
    start.add_argument("--out", dest="work", type=Path, metavar="DIR", help="the same, as older notes have it")
    start.add_argument("--force", action="store_true", help="overwrite files that are there")
    check = command(_check, "test the first exercise that is not done, then the next", "*")
    check.add_argument("--watch", action="store_true", help="again whenever a file is saved")
    check.add_argument("--seed", type=int, default=0, metavar="S", help="what the random inputs are drawn from (0)")
    check.add_argument("--move", action="store_true", help="first move files that have another place since you began")
    command(_hint, "one more hint for the exercise you are at", "*")
    status = command(_status, "where you are: the lesson at hand, what is done, points", "*")
    status.add_argument("--all", action="store_true", help="the exercises of all lessons")
    command(_solution, "your lines beside the reference's", "*")
    kills = command(_kills, "which wrong solution is caught by which test", "*", work=False)
    kills.add_argument("--json", action="store_true", help="one JSON object instead of the lines")
    build.configure(command(_notebooks, "build notebooks from their sources, or compare with --check", work=False))
    figures.configure(command(_figures, "write the figures that notebooks measured into the lessons that quote them", work=False))
    release = command(_release, "bundles for students and for the autograder", "+", work=False)
    release.add_argument("--out", type=Path, default=Path("dist"), metavar="DIR")
    release.add_argument("--seed", type=int, metavar="S", help="of the hidden tests (drawn if not given)")
    release.add_argument("--tests", type=Path, metavar="DIR", help="private tests to add to the autograder")
    grade = command(_grade, "score an untrusted submission", work=False)
    grade.add_argument("--work", type=Path, metavar="DIR", help="the submission (work)")
    grade.add_argument("folder", type=Path, nargs="?", metavar="DIR", help="the submission, in place of --work")
    grade.add_argument("--only", dest="ids", nargs="+", default=[], metavar="ID", help="lessons or exercises to score (all)")
    grade.add_argument("--seed", type=int, default=0, metavar="S", help="a new seed is a new hidden test (0)")
    grade.add_argument("--tests", type=Path, metavar="DIR", help="private tests, laid over the reference's")
    grade.add_argument("--out", type=Path, metavar="FILE", help="scores as JSON")
    grade.add_argument("--gradescope", type=Path, metavar="FILE", help="scores as Gradescope's results.json")
    grade.add_argument("--classroom50", type=Path, metavar="FILE", help="scores as Classroom 50's result.json")
    grade.add_argument("--seconds", type=float, default=60, metavar="S", help="wall clock for one exercise (60)")
    grade.add_argument("--memory", type=float, default=4, metavar="GB", help="address space of a child (4)")
    grade.add_argument("--no-lint", dest="lint", action="store_false", help="skip the first barrier")


def run(args: Namespace) -> int:
    """Carry out one action; the exit status is 0 when all that was asked for is done."""
    from minillm.course.exercises import moved
    from minillm.course.exercises.index import Course

    if getattr(args, "move", False):
        show([f"{args.work}: {line}" for line in moved.bring_over(args.work)] or [f"{args.work}: every file is in its place."])
    elif args.learner:
        moved.refuse_old(args.work)
    return args.act(args, Course())


def show(lines: Iterable[str]) -> None:
    print("\n".join(lines))


def _start(args: Namespace, course: "Course") -> int:
    from minillm.course.exercises import check
    from minillm.course.exercises.progress import Progress
    from minillm.course.exercises.start import start

    report = start(course, args.ids, args.work, args.force)
    progress = Progress.load(args.work)
    show([f"{progress.work / file}: {what}" for file, what in report] + check.welcome(course, progress, args.ids))
    return 0


def _check(args: Namespace, course: "Course") -> int:
    from minillm.course.exercises import check
    from minillm.course.exercises.progress import Progress

    def once() -> bool:
        lines, done = check.check(course, Progress.load(args.work), args.ids, args.seed)
        show(lines)
        sys.stdout.flush()
        return done

    if not args.watch:
        return 0 if once() else 1
    try:
        check.watch(args.work, once)
    except KeyboardInterrupt:
        print()
    return 0


def _hint(args: Namespace, course: "Course") -> int:
    from minillm.course.exercises import check
    from minillm.course.exercises.progress import Progress

    show(check.hint(course, Progress.load(args.work), args.ids))
    return 0


def _status(args: Namespace, course: "Course") -> int:
    from minillm.course.exercises.progress import Progress
    from minillm.course.exercises.status import status

    width = max(60, shutil.get_terminal_size((80, 24)).columns)
    show(status(course, Progress.load(args.work), args.ids, args.all, width))
    return 0


def _solution(args: Namespace, course: "Course") -> int:
    from minillm.course.exercises import check
    from minillm.course.exercises.progress import Progress

    show(check.solution(course, Progress.load(args.work), args.ids, shutil.get_terminal_size().columns))
    return 0


def _kills(args: Namespace, course: "Course") -> int:
    import json

    from minillm.course.exercises.kills import kills, show_kill

    found = []
    for kill in kills(course, args.ids):
        found.append(kill)
        if not args.json:
            print(show_kill(kill), flush=True)
    if args.json:
        print(json.dumps({"kills": [kill.as_dict() for kill in found]}))
    return 0 if all(kill.caught for kill in found) else 1


def _notebooks(args: Namespace, course: "Course") -> int:
    from minillm.course.notebooks.build import run

    return run(args)


def _figures(args: Namespace, course: "Course") -> int:
    from minillm.course.notebooks.figures import run

    return run(args)


def _release(args: Namespace, course: "Course") -> int:
    from minillm.course.grading.release import release

    for path in release(course, args.ids, args.out, args.seed, args.tests):
        print(path)
    return 0


def _grade(args: Namespace, course: "Course") -> int:
    from minillm.course.exercises.index import CourseError
    from minillm.course.grading import report
    from minillm.course.grading.grade import Limits, grade

    if args.work and args.folder:
        raise CourseError(f"two submissions, {args.folder} and --work {args.work}: grade one at a time.")
    work, limits = args.work or args.folder or Path("work"), Limits(args.seconds, args.memory)
    scores = grade(course, work, args.ids, args.seed, args.tests, args.lint, limits)
    for line in report.lines(scores):
        print(line)
    for path, form in ((args.out, report.ours), (args.gradescope, report.gradescope), (args.classroom50, report.classroom50)):
        if path:
            report.save(path, form(scores))
    return 0
