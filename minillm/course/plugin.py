"""The pytest plugin: the same tests against the reference, or against a learner's folder.

    pytest                               the reference
    pytest --impl work                   the exercises that have been started in work/
    pytest --impl work --ex 01.2 --hints
    pytest --impl=/elsewhere/work        with = for a folder outside the clone: pytest looks for its settings near its arguments

With --impl, work/attention/flash.py takes the place of minillm.attention.flash (overlay.py), what is not written yet is a TODO
(outcomes.py), and every test has a time limit (watchdog.py). The run fails if the tests did not get the learner's file.

pyproject.toml loads it with `-p minillm.course.plugin`, not through a pytest11 entry point: an entry point would add these
options to every pytest run on the machine that has minillm installed.
"""

import contextlib
import json
import os
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest

from minillm.course.exercises import broken, outcomes, regions
from minillm.course.exercises.index import Course, wanted
from minillm.course.exercises.outcomes import Outcome
from minillm.course.exercises.overlay import Overlay
from minillm.course.exercises.watchdog import Watchdog
from minillm.errors import MiniLLMError

RUN = pytest.StashKey["Run"]()


@dataclass
class Run:
    """What one pytest run knows about the exercises."""

    seed: int
    impl: Path | None = None
    course: Course = field(default_factory=Course)
    overlay: Overlay | None = None
    watchdog: Watchdog | None = None
    started: set = field(default_factory=set)  # exercises with a file in impl, but for those that it marks as not started
    missing: dict = field(default_factory=dict)
    under_test: dict = field(default_factory=dict)
    outcomes: list = field(default_factory=list)
    complaints: list = field(default_factory=list)
    listeners: list = field(default_factory=list)  # called with one dict an event

    def emit(self, event, **values):
        for listener in self.listeners:
            listener({"event": event, **values})

    def broken(self):
        """{module: what is wrong} of the learner's files that cannot be loaded."""
        return {name: str(replace(one, path=self.shown(one.path))) for name, one in self.overlay.broken.items()}

    def shown(self, path):
        """Name a file of the learner's as the learner would write it."""
        return str(self.impl / Path(path).resolve().relative_to(self.overlay.impl))

    def blame(self, stacks):  # looks at the stack -> (", in work/layers.py:30 (exercise 01.1)", "01.1")
        """Find where a test hangs, and in whose lines."""
        found = broken.running(stacks, self.overlay.impl)
        id = broken.exercise_at(*found) if found else ""
        return (f", in {self.shown(found[0])}:{found[1]}" + f" (exercise {id})" * bool(id) if found else ""), id


def pytest_addoption(parser):
    group = parser.getgroup("minillm", "exercises of minillm")
    group.addoption("--impl", metavar="DIR", help="test the files in this folder in place of the reference's")
    group.addoption("--ex", metavar="ID", action="append", default=[], help="only this exercise (01.2) or lesson (01)")
    group.addoption("--hints", action="store_true", help="show the hint of a test that fails")
    group.addoption("--seed", type=int, default=0, metavar="S", help="what all random inputs are drawn from (0)")
    group.addoption("--time-limit", type=float, default=20, metavar="SECONDS", help="for one test, with --impl (20)")
    group.addoption("--one-time-out", action="store_true", help="end the run at the first test that takes too long")
    group.addoption("--report", metavar="FILE", help="write what happens to FILE, one JSON object a line")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    config.addinivalue_line("markers", "exercise(id, points=1, hint='', seconds=None): the exercise that a test marks")
    option = config.option
    os.environ["MINILLM_SEED"] = str(option.seed)
    if hasattr(option, "hypothesis_seed"):
        seed_hypothesis(option)
    run = config.stash[RUN] = Run(option.seed)
    if option.report:
        report = open(option.report, "w", encoding="utf-8")  # noqa: SIM115  (closed with the run)
        config.add_cleanup(report.close)
        run.listeners.append(lambda event: print(json.dumps(event), file=report, flush=True))
    try:
        option.ex = run.course.choice(option.ex)
    except MiniLLMError as error:
        raise pytest.UsageError(str(error)) from None
    if option.impl:
        run.impl = Path(option.impl)
        run.missing = outcomes.stubs(run.impl, {exercise.file for exercise in run.course.exercises.values()})
        asked = {id for id in run.course.exercises if wanted(id, option.ex)}
        run.overlay = Overlay(run.impl, run.course.package, asked, lenient=True)
        run.overlay.install()
        run.watchdog = Watchdog()
        config.add_cleanup(run.watchdog.close)
        run.overlay.limit = partial(loading, run, 3 * option.time_limit)
        run.started = {id for id, exercise in run.course.exercises.items() if begun(run.impl / exercise.file, id, id in asked)}
        absent = [id for id in run.course.exercises if id in asked - run.started]
        if absent or not run.started:
            first = absent[0] if absent else "01"
            write = f"minillm course start {first[:2]} --work {run.impl}"
            raise pytest.UsageError(f"{run.impl} holds no file for exercise {first}; write one: {write}")


@contextlib.contextmanager
def loading(run, seconds):
    """Limit the time of loading a learner's file, unless a limit is running already: `while True` may stand anywhere."""
    if run.watchdog.armed:
        yield
        return
    with run.watchdog.limit(seconds, f"a file gave no answer in {seconds:g} s while it was loaded", run.blame):
        yield


def begun(path, id, asked):
    """Whether an exercise is to be tested: its file is there and does not mark it as not started, or it was asked for by name."""
    return path.is_file() and (asked or not regions.is_later(path.read_text(encoding="utf-8", errors="replace"), id))


def seed_hypothesis(option):
    """Set one seed for hypothesis too: no clock in its verdicts, no memory between runs; it shrinks, and check_close explains."""
    from hypothesis import Phase, settings

    phases = [phase for phase in Phase if phase != Phase.explain]
    settings.register_profile("minillm", deadline=None, database=None, report_multiple_bugs=False, phases=phases)
    settings.load_profile("minillm")
    if option.hypothesis_seed is None:
        option.hypothesis_seed = str(option.seed)


def pytest_report_header(config):
    run = config.stash[RUN]
    if run.impl is None:
        return f"minillm: the reference, {run.course.package}; seed {run.seed}"
    alarm = "" if run.watchdog.alarm else "; no alarm on this system: a test over its time limit ends the run"
    return f"minillm: YOUR files in {run.impl}, all else from the reference, {run.course.package}; seed {run.seed}{alarm}"


def pytest_sessionstart(session):
    """-q hides the header; whose code is under test must be said all the same."""
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal and terminal.verbosity < 0 and session.config.stash[RUN].impl:
        terminal.write_line(pytest_report_header(session.config))


def pytest_ignore_collect(collection_path, config):
    """Skip files of tests without a chosen exercise, with --impl or --ex: they need not be imported."""
    option = config.option
    if (option.impl or option.ex) and collection_path.name.startswith("test_") and collection_path.suffix == ".py":
        ids = {test.exercise for test in config.stash[RUN].course.tests if test.file == collection_path.name}
        if collection_path.parent.name == "tests" and not any(not option.ex or wanted(id, option.ex) for id in ids):
            return True
    return None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    run, option, kept, dropped = config.stash[RUN], config.option, [], []
    for item in items:
        mark = item.get_closest_marker("exercise")
        id = mark.args[0] if mark else None
        chosen = not option.ex or (id and wanted(id, option.ex))
        exercise = run.course.exercises.get(id)
        if run.impl:
            chosen = chosen and exercise and id in run.started
        (kept if chosen else dropped).append(item)
        if chosen and exercise:
            run.under_test[id] = exercise
    items[:] = kept
    if dropped:
        config.hook.pytest_deselected(items=dropped)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    if report.failed:
        collector.config.stash[RUN].emit("error", file=report.nodeid, message=str(report.longrepr))
    return report


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session):
    run = session.config.stash[RUN]
    cases = [unit(item) for item in session.items if item.get_closest_marker("exercise")]
    run.emit("plan", tests={test: cases.count(test) for test in dict.fromkeys(cases)})
    if run.overlay:
        for message in run.broken().values():
            run.emit("broken", message=message)


def unit(item):
    """Name the test that earns points: a function with all its parametrized cases, or a class."""
    file, name, *_ = item.nodeid.split("::")
    return f"{Path(file).name}::{name.split('[')[0]}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    run, mark = item.config.stash[RUN], item.get_closest_marker("exercise")
    if run.watchdog is None or mark is None:
        return (yield)
    run.emit("start", test=unit(item))
    seconds = mark.kwargs.get("seconds") or item.config.option.time_limit
    message = (
        f"{unit(item)} (exercise {mark.args[0]}) gave no answer in {seconds:g} s and did not hear the alarm: "
        "a loop that never ends, in compiled code or under `except BaseException`? The run stops here."
    )
    exercise = run.course.exercises.get(mark.args[0])
    if exercise and (why := run.broken().get(exercise.module)):
        pytest.fail(why, pytrace=False)
    with run.watchdog.limit(seconds, message, run.blame):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    run, mark = item.config.stash[RUN], item.get_closest_marker("exercise")
    if mark is None:
        return report
    hint = mark.kwargs.get("hint", "")
    if report.when == "setup":
        text = hint if isinstance(hint, str) else " ".join(hint)
        item.outcome = Outcome(unit(item), mark.args[0], mark.kwargs.get("points", 1), "passed", hint=text)
    outcome = item.outcome
    if report.failed:
        outcomes.judge(outcome, call.excinfo.value, run.missing)
        if outcome.kind == "TimeLimit" and item.config.option.one_time_out:
            item.session.shouldstop = "a test took too long"
        if outcome.status == "todo":
            report.outcome, report.todo = "skipped", True
            report.longrepr = (str(item.path), item.location[1] or 0, outcome.message)
        elif item.config.option.hints and outcome.hint:
            report.sections.append(("hint", outcome.hint))
    elif report.skipped:
        outcome.status, outcome.message = "skipped", str(call.excinfo.value) if call.excinfo else "expected to fail"
    if report.when == "teardown":
        run.outcomes.append(outcome)
        run.emit("outcome", **outcome.as_dict())
    return report


def pytest_report_teststatus(report):
    return ("todo", "t", ("TODO", {"yellow": True})) if getattr(report, "todo", False) else None


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session, exitstatus):
    run = session.config.stash[RUN]
    if run.overlay and exitstatus in (0, 1) and not session.config.option.collectonly:
        for id, exercise in run.under_test.items():
            if origin := run.overlay.stranger(exercise):
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
                mine = run.impl / exercise.file
                run.complaints.append(f"exercise {id}: the tests did not run {mine}: {exercise.module} came from {origin}")
                run.emit("error", file=exercise.file, message=run.complaints[-1])
    run.emit("end", exitstatus=int(session.exitstatus))


def pytest_terminal_summary(terminalreporter, config):
    run = config.stash[RUN]
    if run.impl is None or not run.outcomes:
        return
    colours = {"passed": {"green": True}, "failed": {"red": True}, "todo": {"yellow": True}}
    terminalreporter.section(f"exercises in {run.impl}")
    for status, line in outcomes.table(run.outcomes):
        terminalreporter.write_line(line, **colours.get(status, {}))
    for complaint in [*run.broken().values(), *run.complaints]:
        terminalreporter.write_line(complaint, red=True)


@pytest.fixture
def rng(request):
    """Make a NumPy generator from the run's seed and the test's name."""
    import numpy as np

    return np.random.default_rng([request.config.stash[RUN].seed, *request.node.nodeid.encode()])
