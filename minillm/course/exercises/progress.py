"""What a learner has done and seen, in work/.minillm.json.

An exercise is done when its tests passed on the text that is there now: the state keeps a hash of that text, so editing a
finished exercise reopens it. Hints and solutions already shown are counted, nothing else.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minillm.course.exercises import regions
from minillm.course.exercises.index import CourseError, Exercise
from minillm.course.paths import near
from minillm.files import write_text

NAME = ".minillm.json"


def option(work: str | Path) -> str:
    """Return what to add to a command for this folder: nothing where it is the usual one."""
    return "" if work == Path("work") else f" --work {work}"


@dataclass
class Progress:
    work: Path
    done: dict = field(default_factory=dict)  # {id: hash of the learner's text}
    hints: dict = field(default_factory=dict)  # {id: how many were shown}
    solutions: list = field(default_factory=list)

    @classmethod
    def load(cls, work: str | Path) -> "Progress":
        work = near(work)
        if not work.is_dir():
            raise CourseError(f"no folder {work}; begin with: minillm course start 01{option(work)}")
        try:
            state = json.loads((work / NAME).read_text(encoding="utf-8"))
            return cls(work, state["done"], state["hints"], state["solutions"])
        except FileNotFoundError:
            return cls(work)
        except (ValueError, KeyError, TypeError):
            raise CourseError(f"{work / NAME} is not readable; delete it, and `check` will find out again.") from None

    def save(self) -> None:
        state = {"done": self.done, "hints": self.hints, "solutions": self.solutions}
        write_text(self.work / NAME, json.dumps(state, indent=1) + "\n")

    def command(self, *words: str) -> str:
        """Return the command to type next, for this folder."""
        return " ".join(["minillm course", *words]) + option(self.work)

    def started(self, exercise: Exercise) -> bool:
        """Whether a file of this exercise was written. Its lesson may not be begun all the same: see `later`."""
        return (self.work / exercise.file).is_file()

    def later(self, exercise: Exercise) -> bool:
        """Whether the learner's file marks the exercise as not started."""
        return regions.is_later((self.work / exercise.file).read_text(encoding="utf-8", errors="replace"), exercise.id)

    def begun(self, exercise: Exercise) -> bool:
        """Whether its file is there, and its lesson started."""
        return self.started(exercise) and not self.later(exercise)

    def text(self, exercise: Exercise) -> str:
        """Return the learner's lines of an exercise; the whole file where the marks are gone."""
        source = (self.work / exercise.file).read_text(encoding="utf-8", errors="replace")
        try:
            inside = regions.body(source, exercise.id)
        except regions.RegionError:
            inside = None
        return source if inside is None else inside

    def line(self, exercise: Exercise) -> Any:
        """Return the exercise's place in the learner's file, as "work/layers.py:40"."""
        path = self.work / exercise.file
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if f"ex={exercise.id}" in line.split():
                return f"{path}:{number}"
        return str(path)

    def is_written(self, exercise: Exercise) -> bool:
        return exercise.id not in regions.unwritten((self.work / exercise.file).read_text(encoding="utf-8", errors="replace"))

    def is_done(self, exercise: Exercise) -> bool:
        return self.started(exercise) and self.done.get(exercise.id) == self._hash(exercise)

    def points(self, exercise: Exercise) -> Any:
        return exercise.points if self.is_done(exercise) else 0

    def finish(self, exercise: Exercise) -> None:
        self.done[exercise.id] = self._hash(exercise)
        self.save()

    def reopen(self, exercise: Exercise) -> None:
        if self.done.pop(exercise.id, None):
            self.save()

    def _hash(self, exercise: Exercise) -> str:
        return hashlib.sha256(self.text(exercise).encode()).hexdigest()[:16]
