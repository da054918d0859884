"""GGUF files put together byte by byte: the numbers of the format are written out, none comes from the code under test."""

import struct

U8, U32, BOOL, STRING, ARRAY = 0, 4, 7, 8, 9
F32, Q4_0 = 0, 2


def u32(n):
    return struct.pack("<I", n)


def u64(n):
    return struct.pack("<Q", n)


def string(text):
    text = text.encode() if isinstance(text, str) else text
    return u64(len(text)) + text


def entry(key, type, value):
    return string(key) + u32(type) + value


def tensor(name="w", dims=(32,), type=F32, offset=0, n_dims=None):
    return string(name) + u32(len(dims) if n_dims is None else n_dims) + b"".join(map(u64, dims)) + u32(type) + u64(offset)


def array(element, count, items=b""):
    return entry("k", ARRAY, u32(element) + u64(count) + items)


def aligned(type, value):
    return entry("general.alignment", type, value)


def build(entries=(), tensors=(), data=128, version=3, n_tensors=None, n_entries=None, magic=b"GGUF", align=32):
    counts = u64(len(tensors) if n_tensors is None else n_tensors) + u64(len(entries) if n_entries is None else n_entries)
    head = magic + u32(version) + counts + b"".join(entries) + b"".join(tensors)
    return head + bytes(-len(head) % align) + bytes(data)
