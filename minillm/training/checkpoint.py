"""A checkpoint: all that the next step depends on, in one file, so that a run killed anywhere goes on as if it had not been.

The next step depends on the parameters, both moments of AdamW, the number of the step, where the batches stand, and the
configuration. They go into one .npz (a zip of plain arrays, with a checksum each) and one JSON text inside it. Nothing is
pickled, so nothing in it could run. It is written as a draft and renamed: there is always a whole one, old or new.

    parameter/NAME, first/NAME, second/NAME      arrays, bit for bit
    state                                        {"version", "step", "batches", "configuration", "sha256"}
"""

import hashlib
import json
import math
import zipfile
import zlib
from dataclasses import dataclass

import numpy as np

from minillm.errors import TrainingError
from minillm.files import replacing

VERSION = 1
GROUPS = ("parameters", "first", "second")


@dataclass(slots=True)
class State:
    """A run after `step` steps: {name: array} three times, and the state of the batches."""

    step: int
    parameters: dict
    first: dict
    second: dict
    batches: dict


def sha256(configuration):  # {key: value} -> str
    """Of the configuration as JSON with sorted keys: the same for equal ones, whatever their order."""
    return hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()


def save(path, state, configuration):
    """Write a checkpoint in the place of the last one. configuration: {key: number, text, bool}, what the numbers depend on.

    TrainingError: values that are not finite, or a disk that refuses. Then the last one stays.
    """
    check(f"{path}: step {state.step:,} is not saved", state)
    about = {"version": VERSION, "step": state.step, "batches": state.batches}
    about |= {"configuration": configuration, "sha256": sha256(configuration)}
    arrays = {f"{group}/{name}": array for group in GROUPS for name, array in getattr(state, group).items()}
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    with replacing(path, TrainingError) as file:
        np.savez(file, state=text, **arrays)


def load(path, configuration):  # path, {key: value} -> State
    """Read a checkpoint of this configuration.

    TrainingError: there is none, it is damaged, it holds values that are not finite, or it is of another configuration; then
    it names the keys that differ, with both values.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(arrays.pop("state").tobytes())
        batches = {key: whole(about["batches"][key]) for key in ("epoch", "next")}
        state = State(whole(about["step"]), {}, {}, {}, batches)
        theirs, digest, version = about["configuration"], about["sha256"], about["version"]
    except FileNotFoundError:
        raise TrainingError(f"{path}: there is no checkpoint to resume.") from None
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise TrainingError(f"{path}: not a checkpoint, or a damaged one: {error!r}.") from None
    if version != VERSION or sha256(theirs) != digest:
        found = f"{version} and {sha256(theirs)[:16]}…"
        raise TrainingError(f"{path}: expected version {VERSION} and configuration {digest[:16]}…, found {found}.")
    if different := differences(theirs, configuration):
        raise TrainingError(f"{path}: the checkpoint is of another configuration: {'; '.join(different)}.")
    for key, array in arrays.items():
        group, _, name = key.partition("/")
        if group not in GROUPS:
            raise TrainingError(f"{path}: expected arrays called {', '.join(GROUPS)}/NAME, found {key!r}.")
        getattr(state, group)[name] = array
    check(path, state)
    return state


def whole(value):  # -> the value, a whole number from 0; ValueError for anything else
    if type(value) is not int or value < 0:
        raise ValueError(f"expected a whole number from 0, found {value!r}")
    return value


def differences(theirs, ours):  # -> ["key is A in the checkpoint, B now"]
    """Keys on which two configurations differ, with both values."""
    told = []
    for key in sorted(theirs.keys() | ours.keys()):
        a, b = (json.dumps(c[key]) if key in c else "missing" for c in (theirs, ours))
        if a != b:
            told.append(f"{key} is {a} in the checkpoint, {b} now")
    return told


def check(what, state):
    """Moments go with the parameters, name by name; and every value is finite. TrainingError opens with `what`."""
    for group in GROUPS:
        arrays = getattr(state, group)
        if {n: a.shape for n, a in arrays.items()} != {n: a.shape for n, a in state.parameters.items()}:
            names = sorted(state.parameters.keys() ^ arrays.keys()) or ["equal names, unequal shapes"]
            raise TrainingError(
                f"{what}: {len(state.parameters)} parameters, {len(arrays)} arrays in {group!r}; they differ in {names[0]}."
            )
        for name, array in arrays.items():
            if array.dtype.kind != "f" or not math.isfinite(float(np.sum(np.abs(array), dtype=np.float64))):
                raise TrainingError(f"{what}: {group}/{name} must hold finite floats, found {array.dtype} with others.")
