"""Mutations of GGUF files that know the format: counts, lengths, types, offsets and strings are changed where they lie."""


import gguf

ODD = [0, 1, 2, 3, 9, 31, 32, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1]


def fields_of(path):
    """Where every field of a file lies, (start, length), as the gguf package says: counts, lengths, types, offsets, strings."""
    reader = gguf.GGUFReader(path)
    base = reader.data.ctypes.data
    everything = list(reader.fields.values()) + [t.field for t in reader.tensors]
    parts = {(p.ctypes.data - base, p.nbytes) for f in everything for p in f.parts}
    lengths = {(start - 8, 8) for start, size in parts if size and start > 24}  # most strings have theirs just before them
    return sorted((s, n) for s, n in parts | lengths if n and 0 <= s < len(reader.data))


def mutate(data, fields, rng, most=3):  # bytes, [(start, length)], Generator -> bytes
    """One change or a few, mostly to a field of the file's structure, some to any byte, some to the length."""
    data = bytearray(data)
    for _ in range(rng.integers(1, most + 1)):
        start, size = fields[rng.integers(len(fields))]
        kind = rng.integers(9)
        if kind <= 2 and size in (1, 2, 4, 8):  # an odd number, or one that is off by a little
            odd = ODD[rng.integers(len(ODD))]
            near = int.from_bytes(data[start : start + size], "little") + int(rng.integers(-9, 10))
            data[start : start + size] = ((odd if kind else near) % 256**size).to_bytes(size, "little")
        elif kind == 3:  # random bytes in a field
            data[start : start + size] = rng.bytes(size)
        elif kind == 4:  # one bit, anywhere
            if data:
                data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        elif kind == 5:  # truncation, at a field or anywhere
            del data[start + int(rng.integers(-1, 2)) if rng.integers(2) else int(rng.integers(len(data) + 1)) :]
        elif kind == 6:  # a field goes, or comes twice
            data[start : start + size] = data[start : start + size] * (2 * int(rng.integers(2)))
        elif kind == 7:  # one field in place of another
            other, length = fields[rng.integers(len(fields))]
            data[start : start + size] = data[other : other + length]
        else:  # bytes that are no UTF-8, nor anything else
            data[start : start + size] = b"\xff" * size
    return bytes(data)
