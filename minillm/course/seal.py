"""Notice when a submission has laid hands on the machinery that marks it.

Before the submission is loaded, remember every function, class and method of pytest, NumPy, hypothesis, the course and the
builtins, and the code inside each. After every test look again. Whoever replaces pytest's runner by one that always passes, or
check_close by a function that never complains, breaks the seal, and nothing the exercise earned counts.

The seal sits in the process it watches: it stops the tricks that people know, not someone who has read this file. See
lessons/instructors.md.
"""

import sys

TRUSTED = (
    "builtins", "math", "json", "operator", "functools", "os", "posixpath", "sys", "contextlib",
    "pytest", "_pytest", "pluggy", "numpy", "hypothesis", "minillm.course",
)  # fmt: skip


def take(more=()):
    """[(holder, name, value, code)]: everything callable in the trusted modules, those named in more, and their classes."""
    seal = []
    for name, module in list(sys.modules.items()):
        if module is None or not (name in more or any(name == top or name.startswith(top + ".") for top in TRUSTED)):
            continue
        own = [value for value in list(vars(module).values()) if isinstance(value, type) and value.__module__ == name]
        for holder in (module, *own):
            for key, value in list(vars(holder).items()):
                if callable(value) or isinstance(value, classmethod | staticmethod | property):
                    seal.append((holder, key, value, _code(value)))
    return seal


def broken(seal):
    """The first name whose object or code is no longer what it was, or None."""
    for holder, name, value, code in seal:
        if vars(holder).get(name) is not value or _code(value) is not code:
            return f"{holder.__name__}.{name}"
    return None


def _code(value):
    value = value.fget if isinstance(value, property) else value
    return getattr(getattr(value, "__func__", value), "__code__", None)
