"""Submissions that attack the grader: none earns what it did not work for, none gets out, honest work beside it keeps its score.

tests/hostile/ holds them, hostile_help.py runs one. The lint is off, and so is the audit hook: what stands is the kernel's wall
and the judge. Each is tried as an ordinary user, and, where rights could make a difference, as who we are: root, most often.
"""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import hostile_help
import pytest
from course_fixture import project, solve

from minillm.course.grading import box, grade, jail
from minillm.course.grading.lint import lint

NAMES = hostile_help.names()
QUICK = ["forged_report", "links", "scans_descriptors", "zeroes_its_inputs"]  # one each of forging, reading, writing, lying
UNSEEN_BY_LINT = {  # nothing in them is forbidden to write
    "cyclic_result", "deep_result", "edits_conftest", "endless_compiled_loop", "endless_loop", "fills_memory", "hangs_on_import",
    "huge_int", "nan_keys", "wide_result", "zeroes_its_inputs", "huge_claim", "lying_dtype",
}  # fmt: skip
RIGHT_FOR_ZEROS = {"edits_conftest", "zeroes_its_inputs"}  # what they answer is right for a query of zeros: 1 point of 3
VALUES_ALONE = {  # what they try has nothing to do with the rights of a user
    "answers_for_others", "asks_the_judge", "bends_the_wire", "cyclic_result", "deep_result", "edits_conftest", "endless_loop",
    "endless_compiled_loop", "exits", "hangs_on_import", "hostile_exception", "huge_claim", "huge_int", "import_hook",
    "lying_array", "lying_dtype", "lying_numbers", "memory_of_ctypes", "nan_keys", "never_answers", "patched_checker",
    "patched_numpy", "patches_classes", "patches_pytest", "pickle_bomb", "skips", "wide_result",
}  # fmt: skip
ORDINARY = 12345
MINUTES = 3

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="grade needs Linux or macOS")


@cache
def wall():
    """What a child of the grader is locked up with on this machine."""
    run = subprocess.run([sys.executable, "-m", "minillm.course.grading.jail"], capture_output=True, text=True)
    return run.stdout.strip() or run.stderr


@cache
def as_ordinary():
    """What makes a command run as a user who owns nothing: (words before it, Popen's arguments, why that cannot be)."""
    if os.geteuid() != 0:
        return [], {}, "not root: the other run is the ordinary user's"
    if all(map(jail.public, jail.python_folders())):
        return [], {"user": ORDINARY, "group": ORDINARY, "extra_groups": []}, None
    who = [f"--reuid={ORDINARY}", f"--regid={ORDINARY}", "--clear-groups"]  # Python lies in root's folder: let it be read
    words = ["setpriv", *who, "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    tried = shutil.which("setpriv") and subprocess.run([*words, sys.executable, "-c", ""], capture_output=True, cwd="/")
    return words, {}, None if tried and tried.returncode == 0 else "this Python cannot be read by an ordinary user"


def run(name, user):
    words, more, _ = as_ordinary() if user == "ordinary" else ([], {}, None)
    alone = ["--alone"] if user == "self" and name not in QUICK else []
    command = [*words, sys.executable, str(Path(hostile_help.__file__)), "--bare", *alone, name]
    env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(Path(box.__file__).parents[3])}
    done = subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, timeout=60 * MINUTES, **more)
    return json.loads(done.stdout) if done.returncode == 0 else {"failed": done.stderr}


@pytest.fixture(scope="module")
def runs(request):
    """{name of a test's case: the future of its run}: two at a time, for the cases that this session has chosen."""
    items = [item for item in request.session.items if item.module is request.module and "told" in item.fixturenames]
    with ThreadPoolExecutor(2) as pool:
        yield {item.name: pool.submit(run, item.callspec.params["name"], item.callspec.params["user"]) for item in items}
        pool.shutdown(cancel_futures=True)


@pytest.fixture
def told(runs, request, user):
    if "no " in wall() or "root still" in wall():
        pytest.skip(f"this system's wall is not whole: {wall()}")
    if user == "ordinary" and as_ordinary()[2]:
        pytest.skip(as_ordinary()[2])
    return runs[request.node.name].result()


def test_the_instructors_are_told_how_many_there_are():
    told = (Path(__file__).parents[1] / "lessons/instructors.md").read_text()
    assert f"`tests/hostile/` holds {len(NAMES)} attacks" in told and len(NAMES) >= 64
    assert set(QUICK) | UNSEEN_BY_LINT | RIGHT_FOR_ZEROS | VALUES_ALONE <= set(NAMES)


CASES = [pytest.param(name, "self", id=f"{name}-self") for name in QUICK]
CASES += [pytest.param(name, "ordinary", id=f"{name}-ordinary", marks=[pytest.mark.slow]) for name in NAMES]
CASES += [pytest.param(name, "self", id=f"{name}-self", marks=[pytest.mark.slow]) for name in NAMES
          if name not in QUICK and (name not in VALUES_ALONE or os.geteuid() != 0)]  # fmt: skip


@pytest.mark.parametrize(("name", "user"), CASES)
def test_an_attack_earns_nothing_and_gets_nowhere(told, name, user):
    assert "failed" not in told, told
    assert told["91.1"] == (name in RIGHT_FOR_ZEROS), f"it earned {told['91.1']}: {told['words']}"
    assert told.get("92.3", 1) == 1, "honest work beside it lost its points"
    assert not told["marks"], "it wrote outside its folder"
    assert not told["called"], "it opened a socket"
    assert not told["changed"], "the reference, its tests, or another submission was changed"
    assert not told["left"], "a process was left behind"
    assert not told["notes"], "something of the wall was missing"
    assert told["user"] == (os.geteuid() if user == "self" else ORDINARY)


@pytest.fixture
def course(tmp_path):
    return project(tmp_path / "project")


VALUES = dict.fromkeys(("REFERENCE", "OUTSIDE", "OTHER", "PRIVATE", "TESTFOLDER", "TESTS"), "x") | {"PORT": 1}


@pytest.mark.parametrize("name", NAMES)
def test_the_lint_refuses_it_with_line_and_reason_or_finds_nothing_at_all(course, tmp_path, name):
    """What it refuses is not run; what it lets pass is run as with the lint off."""
    work = tmp_path / "work"
    hostile_help.submission(course, work, name, VALUES)
    found = lint((work / "layers.py").read_text(), course.source("layers.py"), "layers.py")
    assert bool(found) == (name not in UNSEEN_BY_LINT), found
    if found:
        scores = grade.grade(course, work, ["91.1"], seed=3)
        assert scores.earned == 0
        assert all("refused before it ran: layers.py:" in score.message for score in scores.tests)


# --- what is taken from a submission, and what not ------------------------------------------------------------------------------


def test_a_link_that_leads_out_of_the_submission_is_refused(course, tmp_path):
    """A linked folder, a linked file, a link by way of ..; a submission that is a link itself, and links within, are fine."""
    solve(course, tmp_path / "secret")
    for name, link, target in (
        ("folder", "minillm", course.package), ("file", "layers.py", course.package / "layers.py"),
        ("dots", "work", Path("../secret")), ("top", "kernels", tmp_path / "secret/kernels"),
    ):  # fmt: skip
        (tmp_path / name).mkdir()
        (tmp_path / name / link).symlink_to(target)
        refused = {}
        assert box.locate(tmp_path / name, ["layers.py", "kernels/device.py"], refused) == {}
        assert any("leads outside the submission" in why for why in refused.values()), refused
    scores = grade.grade(course, tmp_path / "folder", ["91.1"])
    assert scores.earned == 0 and "minillm/layers.py leads outside the submission" in scores.tests[0].message
    (tmp_path / "handed_in").symlink_to(tmp_path / "secret")
    (tmp_path / "secret/attic").symlink_to("kernels")
    assert set(box.locate(tmp_path / "handed_in", ["layers.py", "attic/device.py"])) == {"layers.py", "attic/device.py"}


def test_pipes_devices_large_files_and_other_spellings_are_told_apart(tmp_path):
    os.mkfifo(tmp_path / "a.py")
    (tmp_path / "b.py").write_text("#" * (box.LARGEST + 1))
    (tmp_path / "C.PY").write_text("")
    (tmp_path / "d.py").symlink_to("/dev/zero")
    (tmp_path / "e.py").symlink_to("e.py")
    (tmp_path / "f.py").symlink_to("nowhere")
    (tmp_path / "g.py").mkdir()
    os.link(tmp_path / "C.PY", tmp_path / "h.py")
    refused = {}
    assert list(box.locate(tmp_path, [f"{letter}.py" for letter in "abcdefghi"], refused)) == ["h.py"]
    assert {name: why.partition(" ")[2][:28] for name, why in refused.items()} == {
        "a.py": "is no plain file", "b.py": "holds 1,000,001 bytes; at mo", "c.py": "is called C.PY; upper and lo",
        "d.py": "leads outside the submission", "e.py": "cannot be read (Too many lev", "f.py": "is a link that leads nowhere",
        "g.py": "is no plain file",
    }  # fmt: skip


@pytest.mark.parametrize(
    "source",
    [
        "def f(input, *, help=1):\n    vars = [open for open in input]\n    return lambda exit: exit + vars\n",
        "class A:\n    def __init__(self, input):\n        self.input = self.help = input\n",
        "\ufeffx = 1\n",
        "x = 0x" + "f" * 6000 + "\n",
    ],
)
def test_the_lint_accepts_what_honest_people_write(source):
    assert lint(source, "", "x.py") == []


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def f(open):\n    pass\nopen('x')\n", "x.py:3: open is not for exercises"),
        ("def f():\n    global open\n    open = 1\n    return open\n", "x.py:3: open is not"),
        ("if 0:\n    input = 1\ninput()\n", "x.py:2: input is not"),
        ("class L(list):\n    __eq__ = lambda self, other: True\n", "x.py:2: a class with __eq__ can mislead"),
        ("class L(list):\n    async def __eq__(self, other): pass\n", "x.py:2: a class with __eq__ can mislead"),
        ("L = type('L', (list,), {'__le__': 1})\n", "x.py:1: type() with three arguments"),
        ("from operator import attrgetter\n", "x.py:1: .attrgetter reaches outside"),
        ("import minillm\nminillm.course.checks = 1\n", "x.py:2: import of minillm.course"),
        ("import numpy as n\nn.load('x')\n", "x.py:2: np.load touches files"),
        ("from numpy import save\n", "x.py:1: np.save touches files"),
        ("x = 1" + "0" * 5000, "x.py:1: does not parse"),
        ("x = 1" + "+1" * 20_000, "x.py:0: does not parse"),
    ],
)
def test_the_lint_refuses_what_hides_behind_a_name(source, says):
    assert any(line.startswith(says) for line in lint(source, "", "x.py")), lint(source, "", "x.py")
