"""Files that we wrote, changed at random: each loads, and inspect shows it, or is a GGUFError, soon and in little memory.

    python tests/support/fuzz_gguf.py [--n 20000] [--seed 0]

The files: one with every type of tensor and of metadata; one with a large alignment; one of metadata alone; one with types that
no table has; the three parts of a split one, one of which is changed, is not there, or is another; importance matrices of both
formats. What loads is used: each tensor is decoded, the sections must leave no byte out, inspect makes its report and takes a
block apart. Prints a line, and fails where anything but GGUFError came out, or a case took more than a second of processor time
or 200 MB.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from fuzz_files import run
from gguf_mutations import fields_of, mutate

from minillm.cli import contents
from minillm.errors import GGUFError
from minillm.formats import anatomy
from minillm.formats.affine_blocks import OURS
from minillm.formats.blocks import BLOCK_TYPES, BlockType
from minillm.formats.gguf import open_gguf
from minillm.formats.gguf_layout import sections
from minillm.formats.gguf_split import named_parts
from minillm.formats.gguf_write import write_gguf
from minillm.formats.imatrix import ImportanceMatrix, read_imatrix, write_imatrix
from minillm.model import runs  # noqa: F401  imported late otherwise, which is no case's memory
from minillm.model.random_model import byte_metadata

SECONDS, MEGABYTES = 1.0, 200
NUMBERS = {f"t.{kind}": np.array([0, 1, 100], kind) for kind in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "?")}
METADATA = {
    "general.architecture": "llama", "general.type": "model", "t.str": "naïve 🦊 \x00", "t.empty": "", "t.strs": ["a", "", "é"],
    "t.nested": [[1, 2], [3]], "t.none": [], "t.true": True, "t.int": -1, "t.float": 0.5, **NUMBERS,
    **{f"{key}.one": values[1] for key, values in NUMBERS.items()},
}  # fmt: skip
LLAMA = {
    "llama.block_count": 1, "llama.embedding_length": 32, "llama.attention.head_count": 2, "llama.feed_forward_length": 32,
    "llama.context_length": 64, "llama.attention.layer_norm_rms_epsilon": 1e-5, **byte_metadata(272),
}  # fmt: skip
SPLIT = "split-00001-of-00003.gguf"
PARTS = [path.name for path in named_parts(Path(SPLIT))]
FILES = ("types", "own", "aligned", "metadata", "unknown", *PARTS, "imatrix.gguf", "imatrix.dat")


def tensor(type, shape, seed=0):  # -> (raw, type, shape): random bytes
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, type.nbytes(shape), np.uint8), type, shape


def write_specimens(folder):
    every = {f"blk.{i}.{name.lower()}.weight": tensor(t, ((2, 256), (256,), (1, 2, 256))[i % 3], i)
             for i, (name, t) in enumerate(BLOCK_TYPES.items()) if t.id < OURS}  # fmt: skip
    write_gguf(folder / "types", METADATA, every)
    own = [t for t in BLOCK_TYPES.values() if t.id >= OURS]
    for name, types in (("twin of own", [BlockType("odd", 24, t.weights, t.bytes) for t in own]), ("own", own)):  # 24: I8
        write_gguf(folder / name, METADATA, {f"odd {i}": tensor(t, (2, 256), i) for i, t in enumerate(types)})
    few = {name: every[name] for name in list(every)[:4]}
    write_gguf(folder / "aligned", METADATA | {"general.alignment": 256}, few)
    write_gguf(folder / "metadata", METADATA | LLAMA, {})
    for name, ids in (("twin of unknown", (24, 24, 24)), ("unknown", (4, 57, 2**32 - 1))):  # 24: I8
        odd = {f"odd {i}": tensor(BlockType("odd", id, 1, 1), (33, 5)) for i, id in enumerate(ids)}
        write_gguf(folder / name, METADATA, few | odd)
    names = list(every)
    for i, path in enumerate(named_parts(folder / SPLIT)):
        own = {"split.no": np.uint16(i), "split.count": np.uint16(3), "split.tensors.count": np.int32(len(names))}
        write_gguf(path, (METADATA if i == 0 else {"general.architecture": "llama"}) | own, {n: every[n] for n in names[i::3]})
    sums = {f"blk.0.{name}.weight": np.random.default_rng(1).random((n, 64), np.float32) for name, n in (("a", 1), ("b", 3))}
    counts = {name: np.full(len(values), 7, np.float32) for name, values in sums.items()}
    for name in ("imatrix.gguf", "imatrix.dat"):
        write_imatrix(folder / name, ImportanceMatrix(sums, counts, 5, 512, ["a text"]))


def use(path):
    """All that is done with a file of which nobody knows whether it is good. Only a tensor that nobody can decode may say no."""
    if path.name.startswith("imatrix"):
        found = read_imatrix(path)
        return sum(values.sum() for values in found.sums.values())
    with open_gguf(path) as gguf:
        ends = {}
        for section in sections(gguf):
            assert section.begin == ends.get(section.part, 0) < section.end, "sections leave a byte out"
            ends[section.part] = section.end
        assert [part.nbytes for part in gguf.parts] == list(ends.values())
        facts = contents.summary(gguf)
        assert all(line.isprintable() for text in contents.report(facts) for line in text.splitlines())
        for name, info in gguf.tensors.items():
            if info.type.decodable:
                assert gguf.dequantize(name).shape == info.shape
                contents.of_block(anatomy.walk(gguf, name, 0))
            else:
                assert len(gguf.raw(name)) == info.nbytes
    return facts


class Written:
    """The specimens, and a case: one of them with changes; now and then a part of a split file is not there, or is another."""

    def __init__(self, folder):
        self.folder = folder
        write_specimens(folder)
        self.good = {name: (folder / name).read_bytes() for name in FILES}
        self.fields = {name: self.fields_in(name) for name in FILES}

    def fields_in(self, name):
        if name.endswith(".dat"):
            return [(at, 4) for at in range(0, min(200, len(self.good[name]) - 4), 4)]
        twin = self.folder / f"twin of {name}"  # with its fields in the same places, and types that the gguf package knows
        return fields_of(twin if twin.exists() else self.folder / name)

    def case(self, i):
        rng, name = np.random.Generator(np.random.PCG64(i)), FILES[i % len(FILES)]
        path, parts = self.folder / name, [part.name for part in named_parts(self.folder / name)]
        for part in parts:
            (self.folder / part).unlink(missing_ok=True)  # a mapping of the case before keeps the old file
            (self.folder / part).write_bytes(self.good[part])
        path.unlink()
        other = rng.integers(20) if parts[1:] else 20
        if other == 0:
            path.write_bytes(self.good[parts[rng.integers(len(parts))]])
        elif other > 1:
            path.write_bytes(mutate(self.good[name], self.fields[name], rng, most=rng.choice((1, 1, 3))))
        return use(self.folder / parts[rng.integers(len(parts))])


def fuzz(n, seed=0, tell=lambda done: None):  # -> Report
    """n cases; case i depends on the seed and i alone."""

    def case(subject, i):
        subject.case(seed * 1_000_000 + i)

    return run(Written, case, n, lambda i: f"{i} ({FILES[i % len(FILES)]})", GGUFError, tell)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    report = fuzz(args.n, args.seed, lambda done: done % 1000 or print(f"{done:,} of {args.n:,}", file=sys.stderr))
    refused = f"{report.refused['GGUFError']:,} refused with {len(report.said):,} messages"
    worst = f"worst {report.seconds:.2f} s, {report.megabytes:.0f} MB"
    print(f"{report.cases:,} cases: {report.loaded:,} loaded, {refused}; crashes {len(report.crashes)}; {worst}")
    print(*report.crashes[:20], sep="\n", end="\n" if report.crashes else "")
    return int(bool(report.crashes) or report.seconds > SECONDS or report.megabytes > MEGABYTES)


if __name__ == "__main__":
    sys.exit(main())
