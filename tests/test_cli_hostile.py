"""Whatever stands on a command line: never a traceback, and a mistake is one line on standard error with status 2.

The options are taken from the real parser, so a new one is tried as soon as it is there. Each gets values that break programs.
Where all of them would be fine, the work itself begins: it is cut short, so that a case takes milliseconds.
"""

import io
import sys

import pytest

from minillm.cli import main, parser
from minillm.cli.tour import MEASURING
from minillm.course.exercises.index import Course
from minillm.errors import MiniLLMError

LONG = "n" * 5000
TOO_LONG = "cannot be looked up: File name too long" if sys.version_info < (3, 14) else "no such file"  # as pathlib says it
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


TOP, COURSE = parser(), Course()  # read once
COMMANDS = dict(leaves(TOP))
NEEDED = {  # what must be there beside the option that is tried
    ("generate",): ["hello", "--model", "MODEL", "--max-tokens", "1"],
    ("chat",): ["--model", "MODEL", "--max-tokens", "1"],
    ("tour",): ["--model", "MODEL"],
    ("serve",): ["--model", "MODEL", "--port", "0", "--backend", "numpy"],
    ("loadtest",): ["--url", "http://127.0.0.1:1", "--requests", "1"],
    ("train",): ["--config", "none.toml"],
    ("quiz",): ["--list"],
    ("inspect",): ["MODEL"],
    ("convert",): ["MODEL", "converted"],
    ("quantize",): ["MODEL", "out.gguf", "--type", "q8_0"],
    ("imatrix",): ["--model", "MODEL", "--text", __file__, "--out", "out.imatrix", "--chunks", "1", "--context", "8"],
    ("download",): ["tiny"],
    ("bench", "model"): ["--model", "MODEL"],
    ("course", "start"): ["01", "--work", "learner"],
    ("course", "check"): ["--work", "learner"],
    ("course", "hint"): ["--work", "learner"],
    ("course", "status"): ["--work", "learner"],
    ("course", "solution"): ["01.1", "--work", "learner"],
    ("course", "release"): ["01"],
    ("course", "grade"): ["--work", "learner"],
}


def cases():
    """One for each option or positional argument of each command, action and benchmark."""
    for words, command in COMMANDS.items():
        for action in command._actions:
            if action.nargs != 0:
                name = (action.option_strings or [action.dest])[0]
                yield pytest.param([*words], action, id=" ".join([*words, name]))


def run_quietly(words, capsys, monkeypatch, stdin="hello\n"):  # -> status, standard error
    monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
    capsys.readouterr()
    try:
        status = main(words)
    except SystemExit as exit_:
        status = exit_.code
    return status, capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["course", "start", "01-x"], "no exercise or lesson '01-x'"),
        (["course", "start", "1-99999999"], "no exercise or lesson '1-99999999'"),
        (["course", "grade", ".", "--only", "01-zz"], "no exercise or lesson '01-zz'"),
        (["course", "start", "04.2", "--work", LONG], "File name too long"),
        (["generate", "hello", "--model", "~nouser/x"], "cannot be looked up"),
        (["generate", "hello", "--model", LONG], "characters)"),
        (["generate", "hello", "--model", "a/" + LONG], TOO_LONG),
        (["generate", "hello", "--lora", LONG], "File name too long"),
        (["tour", "--out", "/dev/null/x"], "--out '/dev/null/x': Not a directory"),
        (["serve", "--port", "0", "--kv-memory", "9" * 400 + "G"], "a size is a number with a unit"),
        (["serve", "--port", "0", "--backend", "numpy", "--blocks", "9" * 20], "are available"),
        (["serve", "--host", "a\udcffb"], "cannot listen on"),
        (["bench", "blocks", "--heads", "9"], "unrecognized arguments: --heads (minillm bench attention has it)"),
        (["bench", "paging", "--tokens", "5"], "(minillm bench attention has it)"),
        (["bench", "--json", "attention"], "(attention comes before its options)"),
        (["bench", "atention"], "(did you mean attention?)"),
        (["bench", "--batch", "0"], "--batch must be at least 1, found 0"),
        (["bench", "--rounds", "-1"], "--rounds must be at least 1, found -1"),
        (["bench", "training", "--batch", "1,2"], "argument --batch: invalid int value: '1,2'"),
        (["genrate"], "(did you mean generate?)"),
        (["bench", "--promt-tokens", "3"], "(did you mean --prompt-tokens?)"),
        (["bench", "--prompt", "3"], "unrecognized arguments: --prompt"),
        (["bench", "model", "-batch", "3"], "(did you mean --batch?)"),
        (["course", "check", "--wrk", "x"], "(did you mean --work?)"),
        (["course", "--work", "x", "check"], "(--work comes after the name of a command that has it)"),
        (["course", "hint", "--watch"], "(minillm course check has it)"),
        (["--verison"], "(did you mean --version?)"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(words, says, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minillm.course.exercises.index.Course", lambda *_: COURSE)
    status, err = run_quietly(words, capsys, monkeypatch)
    assert status == 2 and says in err and err.startswith("minillm: ") and err.count("\n") == 1, err


def test_bytes_that_are_no_text_are_refused_from_every_source(capsys, monkeypatch, tiny_path):
    """From standard input as from the command line, in a terminal of any encoding."""
    raw = io.TextIOWrapper(io.BytesIO(b"abc\xff"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", raw)
    assert main(["generate", "-", "--model", str(tiny_path)]) == 2
    assert "not valid Unicode" in capsys.readouterr().err


def test_every_misspelled_option_is_answered_with_the_option(capsys):
    """Of every command, action and benchmark, with one letter too many."""
    missed = []
    for words, command in COMMANDS.items():
        for option in command._option_string_actions.keys() - {"-h", "--help"}:
            with pytest.raises(SystemExit) as exit_:
                TOP.parse_args([*words, option[:5] + "x" + option[5:]])
            status, err = exit_.value.code, capsys.readouterr().err
            near = err.partition("(did you mean ")[2].partition("?)")[0]
            if status != 2 or err.count("\n") != 1 or near not in command._option_string_actions:
                missed.append((words, option, err))
    assert missed == []


def test_bare_bench_is_the_benchmark_of_a_model():
    for options in ([], ["--batch", "4"], ["--model", "attention", "--json"]):
        bare, named = TOP.parse_args(["bench", *options]), TOP.parse_args(["bench", "model", *options])
        assert bare == named and bare.what == "model"


def test_the_registry_of_benchmarks_and_their_options_have_the_same_names():
    from minillm.bench import BENCHMARKS, benchmark
    from minillm.cli.benchmarks import CHOICES

    assert BENCHMARKS.keys() == CHOICES.keys()
    assert [name for name in BENCHMARKS if not (callable(benchmark(name).run) and callable(benchmark(name).table))] == []


def test_without_a_command_there_is_help(capsys):
    assert main([]) == 0
    out, err = capsys.readouterr()
    assert "tour" in out and "bench" in out and err == ""


def test_the_hubs_warnings_are_not_printed(monkeypatch, capsys):
    """Without a network it warned six times before it gave up."""
    import logging
    import types

    def fail(repo, file):
        logging.getLogger("huggingface_hub.utils").warning("Retrying in 1s [Retry 1/5].")
        raise ConnectionError("no route")

    hub = types.ModuleType("huggingface_hub")
    hub.hf_hub_download = fail
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    status, err = run_quietly(["download", "hf:org/repo/a.gguf"], capsys, monkeypatch)
    assert (status, err) == (2, "minillm: could not fetch 'hf:org/repo/a.gguf': no route\n")
    assert logging.getLogger("huggingface_hub").isEnabledFor(logging.WARNING)


@pytest.fixture
def cli(tiny_path, tmp_path, monkeypatch, capsys):
    """Run a command whose work is cut short, in an empty folder. -> status, standard error"""
    from minillm import tour
    from minillm.bench import blocks, compare, kernels, machine, pair, prefix, replay, serving, training_speed, worker
    from minillm.course.exercises import kills, runner
    from minillm.course.grading import grade, release
    from minillm.course.notebooks import build
    from minillm.model import zoo
    from minillm.server import listen

    for module, *names in (
        (tour, "climb"), (machine, "measure_machine"), (compare, "compare"), (worker, "Worker"), (kernels, "run"), (pair, "run"),
        (prefix, "run"), (replay, "run"), (serving, "run"), (blocks, "run"), (training_speed, "run"), (listen, "make_server"),
        (runner, "run"), (kills, "kills"), (build, "build"), (release, "_zip"), (zoo, "_hub"),
    ):  # fmt: skip
        for name in names:
            monkeypatch.setattr(module, name, reached, raising=name != "_zip")
    monkeypatch.setattr("minillm.cli.loadtest.under_way", reached)
    monkeypatch.setattr("minillm.course.exercises.index.Course", lambda *_: COURSE)
    monkeypatch.setattr(grade, "grade", reached)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINILLM_STATE", str(tmp_path / "state"))
    assert main(["course", "start", "01.1", "--work", "learner"]) == 0

    def run(*words):
        return run_quietly([str(tiny_path) if word == "MODEL" else word for word in words], capsys, monkeypatch)

    return run


@pytest.mark.slow
@pytest.mark.parametrize(("start", "action"), list(cases()))
def test_no_value_of_an_option_makes_a_traceback(cli, start, action):
    needed = NEEDED.get(tuple(start), [])
    for value in NUMBERS if action.type in (int, float) else TEXTS[:6] if action.choices else TEXTS:
        if action.option_strings:
            words = [*start, *needed, f"{action.option_strings[0]}={value}"]
        else:
            words = [*start, value, *needed[1:]]
        status, err = cli(*words)
        assert status in (0, 1, 2), (value, status, err)
        if status == 2:
            said = err.removeprefix(f"minillm: {MEASURING}\n") if start == ["tour"] else err
            assert said.startswith("minillm: ") and said.count("\n") == 1 and said.endswith("\n"), (value, err)
