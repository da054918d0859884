"""A fresh folder for one run of a submission: everything it needs, and no solution of what it submitted.

    box/minillm/       the reference, with the submitted files emptied: there is no answer here to read
    box/submission/    the submitted files, and only those that hold exercises: no conftest.py, no pytest.ini, no helper of theirs
    box/tests/         the tests, copied from the reference; private ones laid over them
    box/tmp/           the only place the child may write
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from minillm.course import regions
from minillm.course.files import write
from minillm.course.index import Course

LARGEST = 1_000_000  # bytes of one submitted file
INI = "[pytest]\ntestpaths = tests\naddopts = -q -p minillm.course.plugin -p no:cacheprovider\n"


@dataclass(frozen=True)
class Box:
    root: Path

    @property
    def course(self):
        return Course(self.root / "minillm", self.root)

    @property
    def tmp(self):
        return self.root / "tmp"

    @property
    def submission(self):
        return self.root / "submission"


def locate(work, files):
    """{file: its path in the submission} for files that are there: in their folder, under work/ or minillm/, or by bare name."""
    work, found = Path(work), {}
    for file in files:
        names = [file, f"work/{file}", f"minillm/{file}"]
        if sum(Path(other).name == Path(file).name for other in files) == 1:
            names.append(Path(file).name)
        for path in (work / name for name in names):
            if path.is_file() and not path.is_symlink() and path.stat().st_size <= LARGEST:
                found[file] = path
                break
    return found


def pack(root, course, submitted, private=None):
    """Fill folder root with a box for the submitted files ({file: path})."""
    box = Box(Path(root))
    skip = shutil.ignore_patterns("__pycache__", "wrong", "hostile", "course_project", ".*")
    shutil.copytree(course.package, box.root / "minillm", ignore=skip)
    shutil.copytree(course.root / "tests", box.root / "tests", ignore=skip)
    if private:
        shutil.copytree(private, box.root / "tests", ignore=skip, dirs_exist_ok=True)
    if (course.root / "data").is_dir():
        (box.root / "data").symlink_to((course.root / "data").resolve())
    for file, path in submitted.items():
        write(box.submission / file, path.read_text(encoding="utf-8", errors="replace"))
        write(box.root / "minillm" / file, regions.blank(course.source(file), name=file))
    write(box.root / "pytest.ini", INI)
    box.tmp.mkdir()
    for path in (box.root, *box.root.rglob("*")):  # the reference may be closed to others; its copy in the box must not be
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    box.tmp.chmod(0o777)
    return box
