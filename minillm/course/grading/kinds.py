"""What may cross the wall, and what of it may change: the kinds of objects that mirror.py keeps alike on both sides."""

import re
from collections import Counter, OrderedDict, deque
from functools import cache

import numpy as np

PLAIN = {type(None), bool, int, float, str}
KINDS = {list: "list", dict: "dict", OrderedDict: "odict", Counter: "counter", set: "set", deque: "deque"}
EMPTY = {"list": list, "dict": dict, "odict": OrderedDict, "counter": Counter, "set": set}
MAPPINGS = {"dict", "odict", "counter"}
NUMBERS = re.compile(r"[<>|=]?([biufc])(\d{1,2})")  # dtypes that cross
SCALARS = {np.dtype(code).type for code in "?bhilqpBHILQPefdgFDG"}
POSES = (int, float, complex, str, bytes, tuple, list, dict, set, frozenset, np.ndarray, np.generic)  # and subclasses lie
GENERATORS = {name: getattr(np.random, name) for name in ("PCG64", "PCG64DXSM", "Philox", "SFC64", "MT19937")}
BUILTINS = {cls.__name__: cls for cls in (bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset, object)}
LARGEST = 1 << 28  # elements of an array: a broadcast one claims any number


def flat(array):  # -> (bytes,) uint8, the same memory; None where there are holes in it
    turned = array.transpose(sorted(range(array.ndim), key=lambda axis: -array.strides[axis]))
    return turned.reshape(-1).view(np.uint8) if turned.flags.c_contiguous else None


def made_plainly(cls):
    """Whether an instance is nothing but its attributes, and runs no code when it is made or freed."""
    return cls.__new__ is object.__new__ and not issubclass(cls, BaseException) and not hasattr(cls, "__del__")


@cache
def slots(cls):  # -> names
    found = []
    for one in cls.__mro__:
        names = one.__dict__.get("__slots__", ())
        found += (names,) if isinstance(names, str) else names
    return [name for name in found if name not in ("__dict__", "__weakref__")]


def attributes(thing):  # -> {name: value}
    found, missing = dict(getattr(thing, "__dict__", {})), object()
    for name in slots(type(thing)):
        if (item := getattr(thing, name, missing)) is not missing:
            found[name] = item
    return found


def contents(thing, kind):
    """List the very things that an object holds, in order: while they are the same, so is its packed form. None: pack anew."""
    if kind == "object":
        names, rest = slots(type(thing)), getattr(thing, "__dict__", {})
        try:
            return [*rest, *rest.values(), *[getattr(thing, name) for name in names]]
        except AttributeError:
            return None
    if kind in MAPPINGS:
        return [*thing, *thing.values()]
    return list(thing) if kind == "list" else None


def plainly(state):
    """Convert a bit generator's state to values without arrays."""
    if isinstance(state, dict):
        return {key: plainly(item) for key, item in state.items()}
    return state.tolist() if isinstance(state, np.ndarray | np.generic) else state


def name_of_class(cls, world):
    if BUILTINS.get(cls.__name__) is cls:
        return f"builtins:{cls.__name__}"
    return f"numpy:{np.dtype(cls).str}" if cls in SCALARS else world.class_name(cls)


def class_of_name(name, world):
    module, _, rest = name.partition(":")
    if module == "builtins":
        return BUILTINS[rest]
    return np.dtype(rest).type if module == "numpy" and NUMBERS.fullmatch(rest) else world.class_of(name)
