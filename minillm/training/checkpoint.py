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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minillm.errors import TrainingError
from minillm.files import replacing
from minillm.formats.expect import Fields, shown
from minillm.formats.json_file import parse_object
from minillm.formats.npz import read_npz

VERSION = 1
GROUPS = ("parameters", "first", "second")


@dataclass(slots=True)
class State:
    """The state of a run after `step` steps: {name: array} three times, and the state of the batches."""

    step: int
    parameters: dict
    first: dict
    second: dict
    batches: dict


def sha256(configuration: Mapping[str, Any]) -> str:
    """Hash the configuration as JSON with sorted keys: the same for equal ones, whatever their order."""
    return hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()


def save(path: str | Path, state: State, configuration: Mapping[str, Any]) -> None:
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


def load(path: str | Path, configuration: Mapping[str, Any], like: dict[str, np.ndarray] | None = None) -> State:
    """Read a checkpoint of this configuration. like: parameters that it must be of, by name, shape and type.

    TrainingError: there is none, it is damaged, it holds values that are not finite, or it is of another configuration; then
    it names the keys that differ, with both values.
    """
    try:
        arrays = read_npz(Path(path), TrainingError)
    except FileNotFoundError:
        raise TrainingError(f"{path}: there is no checkpoint to resume.") from None
    if (text := arrays.pop("state", None)) is None or text.dtype != np.uint8:
        raise TrainingError(f"{path}: not a checkpoint, or a damaged one: it has no array 'state' of bytes.")
    about = Fields(parse_object(text.tobytes(), f"{path}: state", TrainingError), f"{path}: state: ", TrainingError)
    places = about.inner("batches")
    batches = {key: places.whole(key, high=2**53) for key in ("epoch", "next")}
    state = State(about.whole("step", high=2**53), {}, {}, {}, batches)
    version, digest, theirs = about.whole("version"), about.text("sha256"), about.inner("configuration")
    for key in theirs.values:
        theirs.checked(key, lambda v: isinstance(v, str | int | float), "a number, text, true or false", None)
    theirs = theirs.values
    if version != VERSION or sha256(theirs) != digest:
        found = f"{version} and {sha256(theirs)[:16]}…"
        raise TrainingError(f"{path}: expected version {VERSION} and configuration {shown(digest[:16])}…, found {found}.")
    if different := differences(theirs, configuration):
        raise TrainingError(f"{path}: the checkpoint is of another configuration: {'; '.join(different[:8])}.")
    for key, array in arrays.items():
        group, _, name = key.partition("/")
        if group not in GROUPS:
            raise TrainingError(f"{path}: expected arrays called {', '.join(GROUPS)}/NAME, found {shown(key)}.")
        getattr(state, group)[name] = array
    check(path, state)
    if like is not None:
        theirs, ours = ({n: (*a.shape, str(a.dtype)) for n, a in group.items()} for group in (state.parameters, like))
        if wrong := sorted(n for n in theirs.keys() | ours.keys() if theirs.get(n) != ours.get(n)):
            found = f"{theirs.get(wrong[0], 'none')} where the run has {ours.get(wrong[0], 'none')}"
            raise TrainingError(f"{path}: the checkpoint is of another model: {shown(wrong[0])} is {found}.")
    return state


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:  # -> ["key is A in the checkpoint, B now"]
    """List the keys on which two configurations differ, with both values."""
    told = []
    for key in sorted(theirs.keys() | ours.keys()):
        a, b = (json.dumps(c[key]) if key in c else "missing" for c in (theirs, ours))
        if a != b:
            told.append(f"{key[:60]} is {a[:60]} in the checkpoint, {b[:60]} now")
    return told


def check(what: object, state: State) -> None:
    """Check that moments match the parameters, name by name, and that every value is finite. TrainingError opens with `what`."""
    for group in GROUPS:
        arrays = getattr(state, group)
        if {n: a.shape for n, a in arrays.items()} != {n: a.shape for n, a in state.parameters.items()}:
            names = sorted(state.parameters.keys() ^ arrays.keys()) or ["equal names, unequal shapes"]
            raise TrainingError(
                f"{what}: {len(state.parameters)} parameters, {len(arrays)} arrays in {group!r}; they differ in {names[0][:60]}."
            )
        for name, array in arrays.items():
            if array.dtype.kind != "f" or not math.isfinite(float(np.sum(np.abs(array), dtype=np.float64))):
                raise TrainingError(f"{what}: {group}/{name[:60]} must hold finite floats, found {array.dtype} with others.")
