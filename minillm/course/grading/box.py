"""Fresh folders for one run: one for the judge, with the tests; one for the submission, with no solution of what it submitted.

    judge's box      minillm/ as it is, tests/ with the private ones laid over them, tmp/; closed to other users
    child's box      minillm/ with the submitted files emptied: there is no answer here to read
                     submission/ the submitted files, and only those that hold exercises: no conftest.py, no helper of theirs
                     tmp/ the only place the child may write
"""

import ast
import os
import shutil
import stat
from pathlib import Path

from minillm.course.exercises import regions
from minillm.course.grading.launch import Box
from minillm.files import write_text

LARGEST = 1_000_000  # bytes of one submitted file
SKIP = shutil.ignore_patterns("__pycache__", "wrong", "hostile", "course_project", ".*")
INI = "[pytest]\ntestpaths = tests\npythonpath = tests/support\naddopts = -q -p minillm.course.plugin -p no:cacheprovider\n"


def locate(work, files, refused=None):
    """Find files: {file: its path in the submission}, in their folder, under work/ or minillm/, or by bare name.

    A file counts only where it lies: a link that leads out of the submission could hand in the reference itself. Those are left
    out, as are pipes, devices and what is too large; `refused`, a dict, then holds {file: why}.
    """
    work, found, refused = os.path.realpath(work), {}, {} if refused is None else refused
    for file in files:
        names = [file, f"work/{file}", f"minillm/{file}"]
        if sum(Path(other).name == Path(file).name for other in files) == 1:
            names.append(Path(file).name)
        for name in names:
            path = Path(work, name)
            if why := objection(path, work):
                refused.setdefault(file, f"{name} {why}")
            elif path.exists():
                found[file] = path.resolve()
                refused.pop(file, None)
                break
    return found


def objection(path, work):
    """Say why a path of a submission in folder work is refused; None if it is not, or where nothing is there."""
    try:
        real, kind = os.path.realpath(path, strict=True), os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            return "is a link that leads nowhere"
        others = [other.name for other in path.parent.glob("*") if other.name.lower() == path.name.lower()]
        return f"is called {others[0]}; upper and lower case are not the same" if others else None
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if os.path.commonpath([real, work]) != work:
        return "leads outside the submission; hand in the file itself, not a link"
    if not stat.S_ISREG(kind.st_mode):
        return "is no plain file"
    return f"holds {kind.st_size:,} bytes; at most {LARGEST:,} are taken" if kind.st_size > LARGEST else None


def pack_judge(root, course, private=None):
    """Fill folder root with all that the tests need: the package solved, the tests, private ones laid over them. -> Box"""
    box = Box(Path(root))
    shutil.copytree(course.package, box.root / "minillm", ignore=SKIP)
    shutil.copytree(course.root / "tests", box.root / "tests", ignore=SKIP)
    if private:
        shutil.copytree(private, box.root / "tests", ignore=SKIP, dirs_exist_ok=True)
    if (course.root / "data").is_dir():
        (box.root / "data").symlink_to((course.root / "data").resolve())
    write_text(box.root / "pytest.ini", INI)
    box.tmp.mkdir()
    return box


def needed(folder, name="grading.child"):  # -> {names of modules}
    """List the course's modules that the child imports, and these in turn: the rest is not needed there."""
    found, queue = set(), [name]

    def file(module):
        return folder / f"{module.replace('.', '/')}.py"

    while queue:
        found.add(name := queue.pop())
        for node in ast.walk(ast.parse(file(name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("minillm.course"):
                inner = node.module.removeprefix("minillm.course").removeprefix(".")
                modules = {f"{inner}.{alias.name}".removeprefix(".") for alias in node.names}
                queue += ({one for one in modules if file(one).is_file()} or {inner}) - found
    return found


def pack_child(root, course, submitted):
    """Fill folder root with what a submission ({file: text}) may see, readable to every user. -> Box"""
    box = Box(Path(root))
    shutil.copytree(course.package, box.root / "minillm", ignore=SKIP)
    course_folder = box.root / "minillm" / "course"
    here = needed(course_folder)
    for path in [path for path in course_folder.rglob("*") if path.is_file() and path.name != "__init__.py"]:
        if ".".join(path.relative_to(course_folder).with_suffix("").parts) not in here:
            path.unlink()
    box.submission.mkdir()
    for file, text in submitted.items():
        write_text(box.submission / file, text)
        write_text(box.root / "minillm" / file, regions.blank(course.source(file), name=file))
    box.tmp.mkdir()
    for path in (box.root, *box.root.rglob("*")):  # the reference may be closed to others; its copy in the box must not be
        path.chmod(0o755 if path.is_dir() else 0o644)
    box.tmp.chmod(0o777)
    return box
