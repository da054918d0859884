"""Whatever stands on a command line: never a traceback, and a mistake is one line on standard error with status 2.

The options are taken from the real parser, so a new one is tried as soon as it is there. Each gets values that break programs.
Where all of them would be fine, the work itself begins: it is cut short, so that a case takes milliseconds.
"""

import io
import sys

import pytest

from minillm.cli import main, parser
from minillm.course.index import Course
from minillm.errors import MiniLLMError

LONG = "n" * 5000
TEXTS = ["", LONG, "a/" + LONG, "~nouser/x", "/dev/null/x", "/", "a\udcffb", "hf:", "hf:a/b/c.gguf"]
TEXTS += ["1,,2", "1,-1", "9" * 5000, "01-", "1-99999999", "99-01", "01.99", "01.x", "01-02-03", "ttft=nan", "a=b", "7:3"]
TEXTS += ["01-zz"]
NUMBERS = ["", "x", "-1", "0", "99999999999999999999", "nan", "-inf", "1e400", "1_0", "٣", "9" * 5000]


class Reached(MiniLLMError):
    """The work would begin here."""


def reached(*_, **__):
    raise Reached("the work would begin here")


def leaves(top, words=()):  # -> (words, parser) of each command and action
    subs = [action for action in top._actions if isinstance(action.choices, dict)]
    if not subs:
        yield words, top
    for action in subs:
        for name, sub in action.choices.items():
            yield from leaves(sub, (*words, name))


COMMANDS, COURSE = dict(leaves(parser())), Course()  # read once
NEEDED = {  # what must be there beside the option that is tried
    ("generate",): ["hello", "--model", "MODEL", "--max-tokens", "1"],
    ("chat",): ["--model", "MODEL", "--max-tokens", "1"],
    ("tour",): ["--model", "MODEL"],
    ("serve",): ["--model", "MODEL", "--port", "0", "--backend", "numpy"],
    ("loadtest",): ["--url", "http://127.0.0.1:1", "--requests", "1"],
    ("train",): ["--config", "none.toml"],
    ("quiz",): ["--list"],
    ("inspect",): ["MODEL"],
    ("download",): ["tiny"],
    ("course", "start"): ["01", "--out", "learner"],
    ("course", "check"): ["--work", "learner"],
    ("course", "hint"): ["--work", "learner"],
    ("course", "status"): ["--work", "learner"],
    ("course", "solution"): ["01.1", "--work", "learner"],
    ("course", "release"): ["01"],
    ("course", "grade"): ["learner"],
}
BENCHES = [["bench", kind] for kind in ("model", "attention", "paging", "pair", "training")]  # the others take no more options


def cases():
    """One for each option or positional argument of each command; `bench` has one command line a benchmark."""
    for words, command in COMMANDS.items():
        for action in command._actions:
            if action.nargs == 0 or action.dest in ("help", "what"):
                continue
            for start in BENCHES if words == ("bench",) else [list(words)]:
                yield pytest.param(start, action, id=" ".join([*start, *(action.option_strings[:1] or [action.dest])]))


@pytest.fixture
def cli(tiny_path, tmp_path, monkeypatch, capsys):
    """Run a command whose work is cut short, in an empty folder. -> status, standard error"""
    from minillm import tour
    from minillm.bench import blocks, compare, kernels, machine, pair, prefix, replay, serving, training_speed, worker
    from minillm.course import grade, kills, notebook, release, runner
    from minillm.model import zoo
    from minillm.serving import listen

    for module, *names in (
        (tour, "climb"), (machine, "measure_machine"), (compare, "compare"), (worker, "Worker"), (kernels, "run"), (pair, "run"),
        (prefix, "run"), (replay, "run"), (serving, "run"), (blocks, "run"), (training_speed, "run"), (listen, "make_server"),
        (runner, "run"), (kills, "kills"), (notebook, "build"), (release, "_zip"), (zoo, "_hub"),
    ):  # fmt: skip
        for name in names:
            monkeypatch.setattr(module, name, reached, raising=name != "_zip")
    monkeypatch.setattr("minillm.cli.loadtest.under_way", reached)
    monkeypatch.setattr("minillm.course.index.Course", lambda: COURSE)
    monkeypatch.setattr(grade, "grade", reached)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINILLM_STATE", str(tmp_path / "state"))
    assert main(["course", "start", "01.1", "--out", "learner"]) == 0

    def run(*words):
        monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
        capsys.readouterr()
        try:
            status = main([str(tiny_path) if word == "MODEL" else word for word in words])
        except SystemExit as exit_:
            status = exit_.code
        return status, capsys.readouterr().err

    return run


@pytest.mark.parametrize(("start", "action"), cases())
def test_no_value_of_an_option_makes_a_traceback(cli, start, action):
    needed = NEEDED.get(tuple(start), ["--model", "MODEL"] if start[0] == "bench" and "model" in start else [])
    for value in NUMBERS if action.type in (int, float) else TEXTS[:6] if action.choices else TEXTS:
        if action.option_strings:
            words = [*start, *needed, f"{action.option_strings[0]}={value}"]
        else:
            words = [*start, value, *needed[1:]]
        status, err = cli(*words)
        assert status in (0, 1, 2), (value, status, err)
        if status == 2:
            assert err.startswith("minillm: ") and err.count("\n") == 1 and err.endswith("\n"), (value, err)
