"""The bundles as shipped: what is in them, and that both work in a clean folder, as root and as an ordinary user."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest
from course_fixture import cli, pytest_in

from minillm.course.exercises import overlay, regions
from minillm.course.exercises.index import Course
from minillm.course.grading import jail
from minillm.course.grading.release import data, release, requirements

COURSE = Course()
FILES = sorted({exercise.file for exercise in COURSE.exercises.values()})
ORDINARY = 12345  # a user who owns nothing
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="grade needs Linux or macOS")


def unpack(path, folder):
    with zipfile.ZipFile(path) as bundle:
        for entry in bundle.infolist():
            bundle.extract(entry, folder)
            (folder / entry.filename).chmod(entry.external_attr >> 16)
    return folder


def code(text):
    """The lines of code of a text, without indentation, comments and blank lines."""
    lines = (re.sub(r"\s+# .*", "", line).strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def text_of(path):
    if path.suffix == ".ipynb":
        return "\n".join("".join(cell["source"]) for cell in json.loads(path.read_text())["cells"])
    return path.read_text(errors="replace")


def answers_in(folder):
    """Exercises whose solution stands in a text file below folder: all its lines of code, one after another."""
    paths = [path for path in folder.rglob("*") if path.suffix in {".py", ".md", ".toml", ".ipynb", ".txt"}]
    texts = ["\n".join(code(text_of(path))) for path in paths]
    bodies = {e.id: "\n".join(code(regions.body(COURSE.source(e.file), e.id))) for e in COURSE.exercises.values()}
    return {id for id, body in bodies.items() if any(body in text for text in texts)}


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """The student bundle of lesson 01, unpacked."""
    folder = tmp_path_factory.mktemp("student")
    bundle, _ = release(COURSE, ["01"], folder / "dist", seed=1)
    assert bundle.stat().st_size < 9_500_000, "the model tiny takes 7.8 MB of it"
    return unpack(bundle, folder / "unpacked")


def test_a_student_bundle_holds_no_solution_of_any_lesson(student, tmp_path):
    assert answers_in(COURSE.package) == set(COURSE.exercises), "the search must find them where they are"
    assert answers_in(student) == set()
    assert not (student / "data/corpus").exists() and not (student / "data/models/eagle.gguf").exists()


def test_with_the_work_done_a_bundle_of_one_lesson_runs_as_a_whole(student, tmp_path):
    """Other lessons' lines are lent, also in the learner's own files: config.py holds 02.6 and naive.py 02.5."""
    folder = shutil.copytree(student, tmp_path / "bundle")
    bundle = Course(folder / "minillm", folder)
    assert list(bundle.exercises) == [id for id in COURSE.exercises if id.startswith("01.")]
    assert "01.1  to do" in cli(bundle, "check").stdout
    for exercise in bundle.exercises.values():
        path = folder / "work" / exercise.file
        path.write_text(regions.fill(path.read_text(), exercise.id, regions.body(COURSE.source(exercise.file), exercise.id)))
    assert "ex=02.6 lines=3 (not started)" in (folder / "work/model/config.py").read_text()
    run = pytest_in(bundle)
    points = sum(exercise.points for exercise in bundle.exercises.values())
    assert run.returncode == 0 and f"score     {points} of {points}" in run.stdout, run.stdout
    env = os.environ | {"PYTHONPATH": str(folder)}
    tell = "from minillm import LLM; print(LLM('tiny').generate(['Once upon'])[0].text, LLM('tiny').config.kv_bytes_per_token())"
    run = subprocess.run([sys.executable, "-c", tell], cwd=folder, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("lesson", sorted({id[:2] for id in COURSE.exercises}))
def test_the_data_that_a_lessons_tests_and_notebook_name_is_in_its_bundle(lesson):
    there = {Path(name).stem for name, _ in data(COURSE, {lesson})}
    tests = {COURSE.root / "tests" / test.file for test in COURSE.tests if test.exercise.startswith(lesson)}
    text = "".join(path.read_text() for path in [*tests, *(COURSE.root / "notebooks").glob(f"{lesson}_*.py")])
    for path in (COURSE.root / "data").rglob("*.*"):
        if path.suffix in {".gguf", ".xz", ".json"} and re.search(rf"\b{path.stem}\.{path.suffix[1:]}\b", text):
            assert path.stem in there, f"{path.name} is named and not shipped"
    assert "tiny" in there


def test_requirements_never_name_the_distribution_itself(tmp_path):
    """Who registers that name on an index would be installed by every grader."""
    for extra in ("test", "dev"):
        assert not [line for line in requirements(COURSE, extra) if "minillm" in line.lower()]
    assert {"numpy>=2.0", "pytest>=8", "uvicorn>=0.30,<0.55"} <= set(requirements(COURSE, "test"))
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "X"\ndependencies = ["a"]\n'
        '[project.optional-dependencies]\none = ["b", "x[two,one]"]\ntwo = ["c", "a"]\n'
    )
    assert requirements(Course(tmp_path / "m", tmp_path), "one") == ["a", "b", "c"]


def test_what_is_lent_keeps_its_own_line_numbers(tmp_path):
    """A traceback names the line that the learner sees."""
    source = "def f():\n    # BEGIN SOLUTION ex=01.1\n    x = 1\n    y = 2\n    # END SOLUTION\n    raise ValueError(x + y)\n"
    stub = regions.blank(source, set(), later=True)
    text, numbers = regions.settle(stub, regions.bodies(source))
    assert "y = 2" in text and numbers == [1, 2, 3, 3, 4, 5]
    assert regions.settle(stub, regions.bodies(source), {"01.1"})[0] == stub, "under test, it stays a stub"
    (tmp_path / "m.py").write_text(stub)
    loader = overlay.Fresh("m", str(tmp_path / "m.py"))
    loader.lend = lambda text: regions.settle(text, regions.bodies(source))
    module = {}
    exec(loader.get_code("m"), module)
    with pytest.raises(ValueError, match="3") as caught:
        module["f"]()
    assert caught.traceback[-1].lineno + 1 == 5


# --- the autograder, with its own virtual environment, as Gradescope and Classroom 50 run it ------------------------------------


@pytest.fixture(scope="module")
def autograder():
    """The autograder of 01-02, set up by its own script, in a folder that all users may read (pytest's own are closed)."""
    with tempfile.TemporaryDirectory(prefix="minillm-autograder-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        _, bundle = release(COURSE, ["01-02"], root / "dist", seed=20)
        unpack(bundle, root / "source")
        env = {"PATH": os.environ["PATH"], "HOME": folder, "AUTOGRADER_VENV": str(root / "venv")}
        env |= {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "HTTP", "http"))}
        run = subprocess.run([root / "source/setup.sh"], env=env, capture_output=True, text=True, cwd="/", umask=0o022)
        assert run.returncode == 0, run.stdout + run.stderr
        yield root, env


def submissions():
    """{name: ({file: text}, points)} of lessons 01 and 02."""
    chosen = COURSE.chosen(["01", "02"])
    files = {exercise.file: COURSE.source(exercise.file) for exercise in chosen}
    stubs = {file: regions.blank(text, name=file) for file, text in files.items()}
    done = ("01.1", "01.3", "02.6")
    half = dict(stubs)
    for exercise in chosen:
        if exercise.id in done:
            body = regions.body(files[exercise.file], exercise.id)
            half[exercise.file] = regions.fill(half[exercise.file], exercise.id, body)
    points = {exercise.id: exercise.points for exercise in chosen}
    broken = files | {"layers.py": files["layers.py"] + "def broken(:\n"}
    lost = sum(exercise.points for exercise in chosen if exercise.file == "layers.py")
    return {
        "reference": (files, sum(points.values())), "stubs": (stubs, 0), "half": (half, sum(points[id] for id in done)),
        "broken": (broken, sum(points.values()) - lost),
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("user", ["root", "ordinary"])
@pytest.mark.parametrize("name", ["reference", "stubs", "half", "broken"])
def test_the_autograder_as_shipped(autograder, name, user):
    root, env = autograder
    files, points = submissions()[name]
    total = submissions()["reference"][1]
    who, source, place = {}, root / "source", root / f"{name}-{user}"
    python = os.path.realpath(root / "venv/bin/python")
    if user == "root" and os.geteuid() != 0:
        pytest.skip("not root")
    if user == "ordinary" and os.geteuid() == 0:
        if not jail.public(os.path.dirname(python)):
            pytest.skip(f"{python} is not readable for other users")
        who, source = {"user": ORDINARY, "group": ORDINARY, "extra_groups": []}, root / "theirs"
        if not source.exists():
            shutil.copytree(root / "source", source)
            for path in (source, *source.rglob("*")):
                os.chown(path, ORDINARY, ORDINARY)
    for file, text in files.items():
        (place / "submission" / file).parent.mkdir(parents=True, exist_ok=True)
        (place / "submission" / file).write_text(text)
    (place / "results").mkdir()
    if who:
        os.chown(place / "results", ORDINARY, ORDINARY)
    env = env | {"AUTOGRADER_ROOT": str(place)}
    run = subprocess.run([source / "run_autograder"], env=env, capture_output=True, text=True, **who)
    assert run.returncode == 0, run.stdout + run.stderr
    results = json.loads((place / "results/results.json").read_text())
    assert results["score"] == points, run.stdout
    assert results["execution_time"] > 0 and f"{points:g} of {total:g} points" in results["output"]
    assert sum(test["max_score"] for test in results["tests"]) == total
    if name == "broken":
        said = {test["output"] for test in results["tests"] if test["number"] in ("01.1", "01.2")}
        assert all("layers.py:" in words and "does not parse" in words for words in said), said
