"""The part of pytest that knows of the wall: a fresh start before each test, a time limit around it, a line to grade after it."""

import signal

import pytest

from minillm.course import plugin
from minillm.course.exercises.watchdog import TimeLimit
from minillm.course.grading.remote import ChildEnded


class Bench:
    """A pytest plugin. wall: to the submission; missing: {unwritten exercise: where}; send: called with one dict an event."""

    def __init__(self, wall, missing, time_limit, send):
        self.wall, self.missing, self.time_limit, self.send = wall, missing, time_limit, send

    def pytest_collection(self, session):
        run = session.config.stash[plugin.RUN]
        run.listeners.append(self.send)
        run.missing.update(self.missing)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item):
        mark = item.get_closest_marker("exercise")
        with limit(20, lambda: "the submission was not loaded in 20 s", self.wall):
            self.wall.reset()
            if trouble := self.wall.ready():
                raise ChildEnded(trouble)
        seconds = (mark and mark.kwargs.get("seconds")) or self.time_limit
        with limit(seconds, lambda: f"{self.wall.calling} gave no answer in {seconds:g} s: a loop that never ends?", self.wall):
            return (yield)


class limit:  # noqa: N801  (a context manager)
    """Raise TimeLimit, with what words() says, after so many seconds; a child that was asked meanwhile is ended.

    The judge waits in a read of its own, which hears the alarm, whatever the child does.
    """

    def __init__(self, seconds, words, wall):
        self.seconds, self.words, self.wall = seconds, words, wall

    def ring(self, *_):
        raise TimeLimit(self.words())

    def __enter__(self):
        self.before = signal.signal(signal.SIGALRM, self.ring)
        signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def __exit__(self, kind, error, trace):
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.before)
        if kind is not None and issubclass(kind, TimeLimit):
            self.wall.kill()
