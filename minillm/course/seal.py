"""Notice when a submission has laid hands on the machinery that marks it.

Before the submission is loaded, remember every function, class and method of pytest, NumPy, hypothesis, the course and the builtins,
and the code inside each. After every test look again. Whoever replaces pytest's runner by one that always passes, or check_close by
a function that never complains, breaks the seal, and nothing the exercise earned counts.

The seal sits in the process it watches: it stops the tricks that people know, not someone who has read this file. See instructors.md.
"""

import sys
import types

TRUSTED = ("builtins", "math", "json", "operator", "functools", "pytest", "_pytest", "pluggy", "numpy", "hypothesis", "minillm.course")


def take(more=()):
    """{(owner, name): (object, its code)} for everything callable in the trusted modules and those named in more."""
    seal = {}
    for name, module in list(sys.modules.items()):
        if module is not None and (name in more or any(name == top or name.startswith(top + ".") for top in TRUSTED)):
            _record(seal, name, vars(module))
            for value in list(vars(module).values()):
                if isinstance(value, type) and value.__module__ == name:
                    _record(seal, f"{name}.{value.__qualname__}", vars(value))
    return seal


def broken(seal):
    """The first name whose object or code is no longer what it was, or None."""
    owners = {}
    for (owner, name), (value, code) in seal.items():
        if owner not in owners:
            owners[owner] = _find(owner)
        now = owners[owner].get(name)
        if now is not value or getattr(_plain(now), "__code__", None) is not code:
            return f"{owner}.{name}"
    return None


def _record(seal, owner, values):
    for name, value in list(values.items()):
        if callable(value) or isinstance(value, classmethod | staticmethod | property):
            seal[owner, name] = value, getattr(_plain(value), "__code__", None)


def _plain(value):
    if isinstance(value, property):
        value = value.fget
    return getattr(value, "__func__", value) if not isinstance(value, types.ModuleType) else value


def _find(owner):
    if owner in sys.modules:
        return vars(sys.modules[owner])
    parts = owner.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        value = sys.modules.get(".".join(parts[:cut]))
        if value is not None:
            for part in parts[cut:]:
                value = vars(value).get(part, types.SimpleNamespace()) if value is not None else None
            return vars(value)
    return {}
