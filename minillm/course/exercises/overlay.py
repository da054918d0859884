"""Load work/attention/flash.py in place of minillm.attention.flash, and everything else from the reference.

A finder in front of Python's own looks into the learner's folder first. Packages work too (work/attention/__init__.py), and so
do files that are not Python: a reference that reads its CUDA C with importlib.resources.files(__package__) / "flash.cu"
gets the learner's flash.cu where there is one. The course and the errors are never replaced: they do the marking.

Regions that are not started get the reference's lines on their way in (regions.settle): a clone finds them in its sources, a
student bundle, whose sources hold no solution, in a file that holds nothing else (`OTHERS`, written by release.py).

While tests run (lenient), a learner's file that cannot be loaded is written down in `broken`, with its line, and the reference
takes its place: what is wrong in one file must not fail the exercises of all the others.
"""

import ast
import contextlib
import importlib.abc
import importlib.machinery
import importlib.readers
import importlib.util
import json
import sys
import zlib
from pathlib import Path

from minillm.course.exercises import broken, regions

PACKAGE = "minillm"
OTHERS = "other_lessons.bin"  # in the package of a student bundle: {file: {exercise: lines}} as JSON, compressed
KEPT = ("minillm.course", "minillm.errors", "minillm.files", "minillm.terminal", "minillm.cli")


class Fresh(importlib.machinery.SourceFileLoader):
    """Always compiles: a .pyc is matched by second and size, and learners (and mutants) edit faster than that."""

    lend = None  # what fills regions that are not started: source -> (source, its lines' numbers)

    def source_to_code(self, data, path, **more):
        if self.lend is None or regions.LATER.encode() not in data:
            return super().source_to_code(data, path, **more)
        text, numbers = self.lend(importlib.util.decode_source(data))
        tree = ast.parse(text, path)
        for node in ast.walk(tree):
            for edge in {"lineno", "end_lineno"} & set(node._attributes):
                setattr(node, edge, numbers[getattr(node, edge) - 1])
        return super().source_to_code(tree, path, **more)

    def path_stats(self, path):
        raise OSError("no cache for a learner's file")


class Learners(Fresh):
    """A file of the learner's; where it cannot be loaded, the reference's file of the same name."""

    def __init__(self, name, path, overlay, reference):
        super().__init__(name, path)
        self.overlay, self.reference = overlay, Path(reference)

    def exec_module(self, module):
        before = dict(vars(module))
        try:
            with self.overlay.limit():
                super().exec_module(module)
            if self.reference.is_file():
                broken.complete(module, self.path, self.reference)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a SystemExit or a time limit at import, too, is this file's own fault
            if not self.reference.is_file():
                raise
            self.overlay.broken[self.name] = broken.place(error, self.overlay.impl, self.path)
            vars(module).clear()
            vars(module).update(before | {"__file__": str(self.reference)})
            exec(self.source_to_code(self.reference.read_bytes(), str(self.reference)), vars(module))


class WithResources(importlib.machinery.SourceFileLoader):
    """The reference's package, with the learner's other files (CUDA C) laid over its own."""

    def __init__(self, name, path, folder):
        super().__init__(name, path)
        self.folders = folder, Path(path).parent

    def get_resource_reader(self, name):
        return self

    def files(self):
        return importlib.readers.MultiplexedPath(*self.folders)


class Overlay(importlib.abc.MetaPathFinder):
    def __init__(self, impl, reference, under=(), lenient=False):
        """under: the exercises under test; if they are not started, they stay stubs. lenient: see above."""
        self.impl, self.reference, self.under = Path(impl).resolve(), Path(reference).resolve(), under
        self.lenient, self.broken = lenient, {}  # {module's name: broken.Broken}
        others = self.reference / OTHERS
        self.others = json.loads(zlib.decompress(others.read_bytes())) if others.is_file() else None
        self.limit = contextlib.nullcontext  # around the loading of a learner's file; the plugin sets a time limit

    def find_spec(self, name, path=None, target=None):
        top, *parts = name.split(".")
        if top != PACKAGE or not parts or f"{PACKAGE}.{parts[0]}" in KEPT:
            return None
        mine, theirs = self.impl.joinpath(*parts), self.reference.joinpath(*parts)
        init, file, reference = mine / "__init__.py", mine.with_name(mine.name + ".py"), theirs / "__init__.py"
        if init.is_file():
            return _spec(name, self._loader(name, init, reference), [str(place) for place in (mine, theirs) if place.is_dir()])
        if file.is_file():
            return _spec(name, self._loader(name, file, theirs.with_name(theirs.name + ".py"), "/".join(parts) + ".py"))
        if reference.is_file() and mine.is_dir() and any(f.suffix in {".cu", ".cuh", ".h"} for f in mine.iterdir()):
            return _spec(name, WithResources(name, str(reference), mine), [str(theirs)])
        if (own := "/".join(parts) + ".py") in (self.others or ()):
            return _spec(name, self._lending(Fresh(name, str(self.reference / own)), own))
        return None

    def _loader(self, name, path, reference, file=None):
        loader = Learners(name, str(path), self, reference) if self.lenient else Fresh(name, str(path))
        return self._lending(loader, file) if file else loader

    def _lending(self, loader, file):
        def lend(source):
            if self.others is not None:
                return regions.settle(source, self.others.get(file, {}), self.under)
            reference = (self.reference / file).read_text(encoding="utf-8")
            return regions.settle(source, regions.bodies(reference), self.under)

        loader.lend = lend
        return loader

    def install(self):
        """Forget what was loaded from the reference and look here first from now on."""
        kept = {name: module for name, module in sys.modules.items() if name.startswith(KEPT)}
        for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE and name not in kept]:
            del sys.modules[name]
        sys.meta_path.insert(0, self)
        top = importlib.import_module(PACKAGE)
        for name, module in kept.items():
            sys.modules[name] = module
            if name.count(".") == 1:
                setattr(top, name.split(".")[1], module)

    def stranger(self, exercise):
        """Where the exercise's module was loaded from, if that is not the learner's folder; None if all is well."""
        if not exercise.file.endswith(".py") or exercise.module in self.broken:
            return None
        module = sys.modules.get(exercise.module)
        origin = getattr(module, "__file__", None)
        if origin is None:
            return "nowhere: no test has imported it"
        return None if Path(origin).resolve() == self.impl / exercise.file else origin


def adopt(init):
    """Last line of minillm/__init__.py in a student bundle: there `minillm` is the learner's work/ wherever it is imported."""
    package = Path(init).parent
    if not any(isinstance(finder, Overlay) for finder in sys.meta_path):  # pytest --impl has put one there
        sys.meta_path.insert(0, Overlay(package.parent / "work", package))


def _spec(name, loader, places=None):
    return importlib.util.spec_from_file_location(name, loader.path, loader=loader, submodule_search_locations=places)
