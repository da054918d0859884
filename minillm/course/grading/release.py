"""Two zip files of some lessons: one for students, one for the autograder.

    students     the package with all regions emptied, work/ with the stubs, lessons, cards, notebooks and visible tests, and of
                 data/ what those use. The lines of exercises that are not released, which the rest needs to run, are in
                 minillm/other_lessons.bin, where they are not read by accident. pyproject.toml adds `--impl work`, so that plain
                 pytest tests the student, and minillm/__init__.py looks into work/ first, so that commands and notebooks run
                 the student's code
    autograder   the package as it is, all tests, private ones, a secret seed, and Gradescope's setup.sh and run_autograder

Both are whole projects: they need the packages that pip installs, and nothing else of ours. That the reference is public on PyPI
and in the repository is a fact no bundle can change; lessons/instructors.md says what follows from it.
"""

import json
import re
import secrets
import tomllib
import zipfile
import zlib
from pathlib import Path

from minillm.course.exercises import overlay, regions
from minillm.course.exercises.index import SOURCES, CourseError
from minillm.files import replacing

TEXTS = Path(__file__).parents[1] / "bundle"
OF_LESSONS = {  # data that only some lessons use; each lesson's tests and notebook name what they need
    "data/corpus": {"09", "16"}, "data/models/eagle": {"16"}, "data/models/moral": {"16"}, "data/models/tiny-draft": {"10", "16"},
}  # fmt: skip
PICTURES = {".png"}  # in data/: of models' training
SKIP = {"__pycache__", "wrong", "right", "hostile", "course_project", ".ipynb_checkpoints"}
ADOPT = "\nfrom minillm.course.exercises import overlay\n\noverlay.adopt(__file__)  # this bundle runs the code in work/\n"
DATE = (2026, 1, 1, 0, 0, 0)  # the same input gives the same bytes


def release(course, ids, out, seed=None, private=None):
    """Write both bundles into folder out; returns their paths."""
    course.need_tests()
    if not (course.root / "pyproject.toml").is_file():
        raise CourseError(f"{course.root} holds no pyproject.toml: release from a clone of the repository.")
    if private and not Path(private).is_dir():
        raise CourseError(f"no folder {private} with private tests.")
    chosen = course.chosen(ids)
    if not chosen:
        raise CourseError("no exercises to release yet.")
    name = "_".join(ids)
    student, autograder = Path(out) / f"minillm-{name}-student.zip", Path(out) / f"minillm-{name}-autograder.zip"
    pack(student, dict(student_files(course, chosen)))
    seed = secrets.randbelow(2**31) if seed is None else seed
    pack(autograder, dict(autograder_files(course, course.choice(ids), seed, private)))
    return student, autograder


def student_files(course, chosen):
    """List (name in the zip, content) of the student bundle."""
    ids, others = {exercise.id for exercise in chosen}, {}
    files, lessons = {exercise.file for exercise in chosen}, {exercise.lesson for exercise in chosen}
    for name, content in package(course):
        file = name.removeprefix("minillm/")
        if Path(file).suffix in SOURCES and not file.startswith("course/"):
            source = content.decode()
            if rest := {id: text for id, text in regions.bodies(source).items() if id not in ids}:
                others[file] = rest
            content = regions.blank(source, ids, file, later=True).encode()
        if file == "__init__.py":
            content = content.rstrip() + b"\n" + ADOPT.encode()
        yield name, content
        if file in files:
            yield f"work/{file}", content
    yield f"minillm/{overlay.OTHERS}", zlib.compress(json.dumps(others, sort_keys=True).encode())
    for path in tree(course.root / "tests"):
        marks = [test.exercise for test in course.tests if test.file == path.name]
        if not path.name.startswith("test_") or any(id in ids for id in marks):
            yield str(path.relative_to(course.root)), path.read_bytes()
    for folder in ("lessons", "notebooks"):
        for path in tree(course.root / folder):
            if path.stem in lessons or path.stem == "README":
                yield str(path.relative_to(course.root)), path.read_bytes()
    yield from data(course, {lesson[:2] for lesson in lessons})
    yield from settings(course, "--impl work")
    for text in ("AGENTS.md", "README.md"):
        yield text, (TEXTS / text).read_text().replace("LESSONS", ", ".join(sorted(lessons))).encode()


def data(course, numbers):
    """List what the lessons of these numbers use of data/."""
    for path in tree(course.root / "data"):
        name = path.relative_to(course.root).as_posix()
        ours = all(numbers & lessons for start, lessons in OF_LESSONS.items() if name.startswith(start))
        if ours and path.suffix not in PICTURES:
            yield name, path.read_bytes()


def autograder_files(course, ids, seed, private):
    """List (name in the zip, content) of the autograder bundle: what Gradescope unpacks to /autograder/source."""
    yield from package(course)
    for folder in ("tests", "data"):
        for path in tree(course.root / folder):
            yield str(path.relative_to(course.root)), path.read_bytes()
    for path in tree(Path(private)) if private else ():
        yield f"private/{path.relative_to(private)}", path.read_bytes()
    yield from settings(course, "")
    yield "requirements.txt", "\n".join([*requirements(course, "test"), ""]).encode()
    yield "release.json", json.dumps({"ids": ids, "seed": seed}).encode()
    for script in ("setup.sh", "run_autograder"):
        text = (TEXTS / script).read_text().replace("@IDS@", " ".join(ids)).replace("@SEED@", str(seed))
        yield script, text.replace("@PRIVATE@", "--tests private" if private else "").encode()


def requirements(course, *extras):
    """List what pip must install for some extras. One that names this distribution itself is resolved here: it is on no index."""
    project = tomllib.loads((course.root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    own, found = re.compile(rf"{re.escape(project['name'])}\s*\[([^\]]*)\]", re.IGNORECASE), [*project.get("dependencies", [])]
    queue, done = list(extras), set()
    while queue:
        if (extra := queue.pop(0).strip()) in done:
            continue
        done.add(extra)
        for line in project.get("optional-dependencies", {}).get(extra, []):
            if itself := own.match(line):
                queue += itself[1].split(",")
            elif line not in found:
                found.append(line)
    return found


def package(course):
    for path in tree(course.package):
        yield f"minillm/{path.relative_to(course.package).as_posix()}", path.read_bytes()


def settings(course, options):
    """Make pyproject.toml with more pytest options, and the licence."""
    text = (course.root / "pyproject.toml").read_text()
    text, changed = re.subn(r'^(addopts = ".*)"$', rf'\1 {options}"' if options else r'\1"', text, flags=re.MULTILINE)
    if not changed:
        raise CourseError(f"{course.root / 'pyproject.toml'}: no line addopts = \"...\" to add --impl to.")
    yield "pyproject.toml", re.sub(r"^(readme|license-files) = .*\n", "", text, flags=re.MULTILINE).encode()
    if (course.root / "LICENSE").is_file():
        yield "LICENSE", (course.root / "LICENSE").read_bytes()


def tree(folder):
    """List the files below a folder in order, without caches and what is the instructor's."""
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder).parts
        if path.is_file() and not SKIP & set(inner) and not any(part.startswith(".") for part in inner):
            yield path


def pack(target, files):
    """Write a zip by rename, its entries in order and of one date; scripts are executable."""
    with replacing(target, CourseError) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name, DATE)
            entry.external_attr = (0o755 if content.startswith(b"#!") else 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            bundle.writestr(entry, content)
