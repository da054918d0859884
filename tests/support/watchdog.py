"""A test that hangs fails instead, where the system has alarms."""

import signal
from contextlib import contextmanager

import pytest


@contextmanager
def watchdog(seconds, what="a test of time"):
    """Fail after so many seconds. Generous: it tells O(n log n) from O(n²), not a fast machine from a slow one."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def bark(*_):
        # no Exception, so that code which turns any exception of a template into a TokenizerError cannot swallow it
        pytest.fail(f"{what}: still at work after {seconds} s: is something quadratic, or unbounded?")

    before = signal.signal(signal.SIGALRM, bark)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
