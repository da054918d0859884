"""What takes the place of a submission's function in the judge, where all else of minillm is the reference."""

import contextlib
import functools
import importlib
import sys
import types


def stand_in(wall, name, original):
    """Make a stand-in for a function: it calls the submission's."""

    def function(*args, **kwargs):
        return wall.call(name, args, kwargs)

    for attribute in ("__name__", "__qualname__", "__doc__", "__module__"):
        with contextlib.suppress(AttributeError):
            setattr(function, attribute, getattr(original, attribute))
    function.submitted, function.fits = name, functools.partial(wall.fits, name)
    if hasattr(original, "py_func"):
        function.py_func = stand_in(wall, f"{name}.py_func", original.py_func)
    return function


def install(wall, module, path):
    """Put a stand-in where the function (Class.method) of a module is, also where other modules have imported it."""
    holder = importlib.import_module(module)
    *outer, last = path.split(".")
    for part in outer:
        holder = getattr(holder, part)
    original, name = holder.__dict__[last], f"{module}:{path}"
    if isinstance(original, property):
        new = property(stand_in(wall, f"{name}.fget", original.fget))
    elif isinstance(original, staticmethod | classmethod):
        new = staticmethod(stand_in(wall, name, original.__func__))
    else:
        new = stand_in(wall, name, original)
    setattr(holder, last, new)
    for other in [other for other_name, other in sys.modules.items() if other_name.startswith("minillm")]:
        for key, value in list(vars(other).items()):
            if value is original:
                setattr(other, key, new)


def put_stand_ins(wall, orders):
    """Replace the exercise's function; for an exercise in CUDA C, which has none, every function that may read its text."""
    for name in orders["functions"]:
        module, _, path = name.partition(":")
        install(wall, module, path)
    for module in orders["modules"]:
        space = importlib.import_module(module)
        for name, value in list(vars(space).items()):
            if isinstance(value, types.FunctionType) and value.__module__ == module:
                setattr(space, name, stand_in(wall, f"{module}:{name}", value))
