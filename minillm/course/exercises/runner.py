"""Run the tests of some exercises against a folder, in a process of their own, and return the outcome of each.

A learner's code may print, exit, or never end; none of that should reach the command that asked. The plugin writes one line of
JSON an event (--report), as it happens, so that even a run that was cut short tells what it got to.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minillm.course.exercises.index import Course
from minillm.course.exercises.outcomes import Outcome, merge


@dataclass
class Result:
    outcomes: list = field(default_factory=list)  # one a test, in the order they ran
    errors: list = field(default_factory=list)  # what kept tests from being run at all
    broken: list = field(default_factory=list)  # files of the learner's that could not be loaded: "work/layers.py:119: ..."
    output: str = ""
    ended: bool = False

    @property
    def passed(self) -> bool:
        return self.ended and not self.errors and bool(self.outcomes) and all(o.status == "passed" for o in self.outcomes)


def run(
    course: Course, impl: str | Path, ids: Sequence[str], seed: int = 0, time_limit: float = 20.0, start: Callable | None = None
) -> Result:
    """Test exercises or lessons (ids) against folder impl. start: `cold`, or `warm.run` for one of many runs."""
    files = [str(Path("tests") / file) for file in sorted({t.file for e in course.chosen(ids) for t in e.tests})]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report"
        arguments = ["-q", "--tb=short", "-p", "no:cacheprovider", "-p", "minillm.course.plugin"]
        arguments += [f"--impl={Path(impl).resolve()}", "--one-time-out", "--seed", str(seed), "--time-limit", str(time_limit)]
        arguments += [f"--ex={id}" for id in ids] + ["--report", str(report), *files]
        path = os.pathsep.join(filter(None, [str(course.package.parent), os.environ.get("PYTHONPATH")]))
        output = (start or cold)(arguments, course.root, os.environ | {"PYTHONPATH": path})
        events = read(report.read_text(encoding="utf-8"), {f"{Path(impl).resolve()}/": f"{impl}/"}) if report.exists() else []
    return understand(events, output, course)


def cold(arguments: Sequence[str], cwd: str | Path, env: dict[str, str]) -> str:  # -> what it printed
    """pytest in an interpreter of its own."""
    both: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    command = [sys.executable, "-m", "pytest", *arguments]
    return subprocess.run(command, cwd=cwd, env=env, text=True, errors="replace", **both).stdout


def read(text: str, renamed: dict[str, str]) -> list[dict[str, Any]]:
    """Read the events of a report, with paths as the learner writes them; a last line that was cut short is dropped."""
    events = []
    for path, name in renamed.items():
        text = text.replace(json.dumps(path)[1:-1], json.dumps(name)[1:-1])
    for line in text.splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            break
    return events


def understand(events: list[dict[str, Any]], output: str, course: Course) -> Result:
    result, running = Result(output=output), None
    for event in events:
        kind = event.pop("event")
        if kind == "start":
            running = event["test"]
        elif kind == "outcome":
            result.outcomes.append(Outcome(**event))
            running = None
        elif kind == "broken":
            result.broken.append(event["message"])
        elif kind == "error":
            result.errors.append(f"{event['file']}: {last_line(event['message'])}")
        elif kind == "end":
            result.ended = True
    if running:  # the run was cut short inside this test
        exercise, points = next((t.exercise, t.points) for t in course.tests if f"{t.file}::{t.name}" == running)
        said = [line for line in output.splitlines() if line.startswith("minillm: ") and "gave no answer" in line]
        message = said[-1].removeprefix("minillm: ") if said else "the process ended inside this test: does the code exit?"
        result.outcomes.append(Outcome(running, exercise, points, "failed", message, "TimeLimit" if said else "Exit"))
    elif not result.ended:
        result.errors.append(last_line(output) or "the process ended without a word")
    result.outcomes = merge(result.outcomes)
    return result


def last_line(text: str) -> str:
    lines = [line.removeprefix("E").strip() for line in text.splitlines() if line.strip(" =!")]
    return lines[-1] if lines else ""
