"""A device to test with: NumPy behind a wall, which counts what passes.

Its arrays compute in NumPy and refuse NumPy: they do not convert, no ufunc takes them, no number can be read out of them. What
runs on it would run on a GPU, as far as the way of the data is concerned. `TRIPS` lists each upload and download.
"""

from dataclasses import dataclass, is_dataclass, replace

import numpy as np

from minillm.backends import numpy_
from minillm.backends.adapted import Adapted
from minillm.backends.step import AttentionStep
from minillm.layers import rope, run_layers, swiglu

__all__ = [
    "AttentionStep", "add_feed_forward", "add_linear", "attention", "attention_inputs", "download", "embed", "empty", "linear",
    "load_matrix", "most_likely", "paged_attention", "prepare_layers", "rms_norm", "rope_angles", "run_layers", "upload", "zeros",
]  # fmt: skip


@dataclass(frozen=True)
class Trip:
    """One transfer. kind: "upload" or "download"; shapes and dtypes of what went together."""

    kind: str
    shapes: tuple
    dtypes: tuple


TRIPS = []


class Refused(TypeError):
    """An array of the device was treated as one of the host."""


def refuse(*_, **__):
    raise Refused("an array of the device was used as one of the host: ops.download brings it back")


class Device:
    """An array on the device. What backends/ops.py allows is here, and nothing else."""

    __array_ufunc__ = None
    __array__ = __array_function__ = __float__ = __int__ = __index__ = __bool__ = __iter__ = refuse

    def __init__(self, data):
        self._data = data

    shape = property(lambda self: self._data.shape)
    dtype = property(lambda self: self._data.dtype)
    nbytes = property(lambda self: self._data.nbytes)
    ndim = property(lambda self: self._data.ndim)

    def __len__(self):
        return len(self._data)

    def reshape(self, *shape):
        return Device(self._data.reshape(*shape))

    def copy(self):
        return Device(self._data.copy())

    def __getitem__(self, at):
        return Device(self._data[place(at)])

    def __setitem__(self, at, value):
        self._data[place(at)] = inside(value)

    def __add__(self, other):
        return Device(self._data + inside(other))

    def __iadd__(self, other):
        self._data += inside(other)
        return self


def place(at):  # an index -> the same for NumPy: slices, ints, and arrays of the device; an array of the host is refused
    if isinstance(at, tuple):
        return tuple(map(place, at))
    if isinstance(at, Device):
        return at._data
    return at if isinstance(at, slice | int) or at is None else refuse()


def inside(value):  # Device, or what holds some -> the same in NumPy
    if isinstance(value, Device):
        return value._data
    if isinstance(value, np.ndarray | Adapted):
        return refuse()
    if isinstance(value, tuple):
        return tuple(map(inside, value))
    if is_dataclass(value) and hasattr(value, "attn_norm"):
        return replace(value, **{f: inside(getattr(value, f)) for f in value.__dataclass_fields__})
    return value


def outside(value):  # NumPy's result -> on the device
    return tuple(map(Device, value)) if isinstance(value, tuple) else Device(value)


def on_device(operation):
    """An operation of the reference, for arrays of the device."""
    return lambda *arguments: outside(operation(*map(inside, arguments)))


embed, add_linear = on_device(numpy_.embed), on_device(numpy_.add_linear)
linear, rms_norm, rope_angles = on_device(numpy_.linear), on_device(numpy_.rms_norm), on_device(numpy_.rope_angles)
attention, paged_attention = on_device(numpy_.attention), on_device(numpy_.paged_attention)
most_likely = on_device(numpy_.most_likely)
turned, gated = on_device(rope), on_device(swiglu)


def empty(shape, dtype=np.float32):
    return Device(np.full(shape, 7, dtype))  # whatever lay there


def zeros(shape, dtype=np.float32):
    return Device(np.zeros(shape, dtype))


def upload(arrays):
    if any(not isinstance(array, np.ndarray) for array in arrays) or len({array.dtype for array in arrays}) > 1:
        raise Refused(f"upload takes arrays of the host, all of one dtype, found {[type(a).__name__ for a in arrays]}")
    if arrays:
        TRIPS.append(Trip("upload", tuple(a.shape for a in arrays), tuple(str(a.dtype) for a in arrays)))
    return [Device(array.copy()) for array in arrays]


def download(array):
    if not isinstance(array, Device):
        raise Refused(f"download takes an array of the device, found {type(array).__name__}")
    TRIPS.append(Trip("download", (array.shape,), (str(array.dtype),)))
    return array._data.copy()


def load_matrix(tensor):
    return Device(numpy_.load_matrix(tensor))


def prepare_layers(layers):
    return layers


def attention_inputs(x, w, c, cos, sin, linear=linear):
    n, h = len(x), rms_norm(x, w.attn_norm, c.norm_eps)
    q = linear(h, w.q, w.q_bias).reshape(n, c.n_heads, c.d_head)
    k = linear(h, w.k, w.k_bias).reshape(n, c.n_kv_heads, c.d_head)
    v = linear(h, w.v, w.v_bias).reshape(n, c.n_kv_heads, c.d_head)
    if c.qk_norm:
        q, k = rms_norm(q, w.q_norm, c.norm_eps), rms_norm(k, w.k_norm, c.norm_eps)
    return turned(q, cos, sin, c.rope_interleaved), turned(k, cos, sin, c.rope_interleaved), v


def add_feed_forward(x, w, c, linear=linear):
    h = rms_norm(x, w.ffn_norm, c.norm_eps)
    return x + linear(gated(linear(h, w.gate), linear(h, w.up)), w.down)
