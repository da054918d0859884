"""Anatomy: what each byte of a block is for, by the names that ggml gives it, and a walk through one block of a file.

A decoder takes ten thousand blocks apart at once, and shows none. Here is one: its bytes field by field, what they say, and the
weights that come of it. Each type has its fields in the order in which they lie, and a line that puts them together again:

    Q4_0    d · (q - 8)    | d: 2 bytes | qs: 16 bytes |    q: weight j in the low four bits of byte j, j + 16 in the high ones

A value of the line is a number for the block, one for each group of weights, or one for each weight. The tests compute the line
from these values and ask the decoder for the same weights, so neither can change alone.

Layouts: ggml's quants (`ggml-common.h`, `ggml-quants.c`); those of ours are in affine_blocks.py.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minillm.errors import GGUFError
from minillm.formats.affine_blocks import AFFINE, affine_name
from minillm.formats.blocks import BlockType, dequantize
from minillm.formats.codebook_quants import E2M1, IQ4_NL
from minillm.formats.cursor import quoted
from minillm.formats.float_blocks import E4M3, UNSIGNED
from minillm.formats.gguf import GGUFFile
from minillm.formats.packing import half, planes, six_bit_scales, spread
from minillm.quantization.bits import packed_bytes, unpack_bits
from minillm.quantization.fp4 import LEVELS
from minillm.quantization.nf4 import BLOCK, nf4_levels

Values = dict[str, np.ndarray]  # name in the line: one number, one for each group, or one for each weight
Read = Callable[[np.ndarray], Values]  # (1, bytes) uint8 -> Values


@dataclass(frozen=True)
class Field:
    """A stretch of a block. name: ggml's; offset: in the block; says: what it is for; read: its values."""

    name: str
    offset: int
    bytes: int
    says: str
    read: Read


@dataclass(frozen=True)
class Walk:
    """One block of a tensor, taken apart. columns: first and last of its weights in the row; offset: of the block in its file."""

    file: Path
    name: str
    type: BlockType
    index: int
    blocks: int
    row: int
    columns: tuple[int, int]
    offset: int
    formula: str
    fields: list[tuple[Field, bytes, Values]]
    weights: np.ndarray


def number(name: str) -> Read:
    return lambda raw: {name: half(raw)[0]}


def codes(name: str, run: int, shifts: Sequence[int], mask: int) -> Read:
    return lambda raw: {name: planes(raw, run, shifts, mask)[0]}


def bits(name: str) -> Read:
    return lambda raw: {name: spread(raw)[0]}


def signed(name: str) -> Read:
    return lambda raw: {name: raw.view(np.int8)[0]}


def looked_up(table: np.ndarray) -> Read:
    def read(raw: np.ndarray) -> Values:
        code = planes(raw, 16, (0, 4), 15)[0]
        return {"code": code, "value": table[code]}

    return read


def side_by_side(bits: int, count: int) -> Read:
    return lambda raw: {"q": unpack_bits(raw, bits, count)[0]}


def levels(raw: np.ndarray) -> Values:  # NF4
    code = unpack_bits(raw, 4, BLOCK)[0]
    return {"code": code, "level": nf4_levels()[code]}


def unsigned_scales(raw: np.ndarray) -> Values:  # NVFP4
    return {"byte": raw[0], "scale": UNSIGNED[raw[0]]}


def small_floats(raw: np.ndarray) -> Values:  # NVFP4
    code = planes(raw, 8, (0, 4), 15)[0]
    return {"code": code, "value": LEVELS[code]}


def eight_bits(raw: np.ndarray) -> Values:  # FP8_E4M3
    return {"code": raw[0], "w": E4M3[raw[0]]}


def two_in_a_byte(raw: np.ndarray) -> Values:  # Q2_K
    return {"scale": raw[0] & 15, "min": raw[0] >> 4}


def six_bits(raw: np.ndarray) -> Values:  # Q4_K, Q5_K
    scale, minimum = six_bit_scales(raw)
    return {"scale": scale[0].astype(np.uint8), "min": minimum[0].astype(np.uint8)}


def sixteen_of_six_bits(raw: np.ndarray) -> Values:  # Q3_K
    low, high = planes(raw[:, :8], 8, (0, 4), 15), planes(raw[:, 8:], 4, (0, 2, 4, 6), 3)
    return {"scale": (low | high << 4)[0]}


def power_of_two(raw: np.ndarray) -> Values:  # MXFP4
    e = raw[0].astype(np.int32)
    return {"e": e, "scale": np.ldexp(1.0, e - 127)}


def float_of(exponent: int, mantissa: int) -> Read:  # how many bits each has
    """w = (1 + mantissa / 2^bits) · 2^(exponent - bias); without the 1, one exponent higher, where the exponent is 0."""
    ones, bias = (1 << exponent) - 1, (1 << exponent - 1) - 1

    def read(raw: np.ndarray) -> Values:
        pattern = int.from_bytes(raw.tobytes(), "little")
        sign, e, m = pattern >> exponent + mantissa, pattern >> mantissa & ones, pattern & (1 << mantissa) - 1
        w = np.ldexp(m / 2.0**mantissa + (e > 0), max(e, 1) - bias)
        if e == ones:
            w = np.nan if m else np.inf
        values = {"sign": sign, "exponent": e, "mantissa": m, "w": -w if sign else w}
        return {name: np.array([value]) for name, value in values.items()}

    return read


HALVES = "16 bytes: weight j in the low four bits of byte j, weight j + 16 in the high ones"
FOUR = "byte j of 32: the low four bits of weight j, and above them those of weight j + 32"
TWO = "byte j of 32: two bits each of weights j, j + 32, j + 64, j + 96"
FIFTH = "the fifth bit of each weight, that of weight 0 lowest"
D, M = "float16: the step from one q to the next", "float16: the weight where q is 0"
DD, DMIN = "float16: what a unit of the scales is worth", "float16: what a unit of the minima is worth"
SIX = "eight scales and eight minima of six bits: bytes 0-3, 4-7, and 8-11 for the upper four of both"
ANATOMY: dict[str, tuple[str, Sequence[tuple[str, int, str, Read]]]] = {  # type: (the line, its fields: name, bytes, says, read)
    "F32": ("w", [("w", 4, "1 bit of sign, 8 of exponent, 23 of mantissa", float_of(8, 23))]),
    "F16": ("w", [("w", 2, "1 bit of sign, 5 of exponent, 10 of mantissa", float_of(5, 10))]),
    "BF16": ("w", [("w", 2, "1 bit of sign, 8 of exponent, 7 of mantissa: the upper half of a float32", float_of(8, 7))]),
    "Q8_0": ("d · q", [("d", 2, D, number("d")), ("qs", 32, "a signed byte for each weight", signed("q"))]),
    "Q4_0": ("d · (q - 8)", [("d", 2, D, number("d")), ("qs", 16, HALVES, codes("q", 16, (0, 4), 15))]),
    "Q4_1": ("d · q + m", [
        ("d", 2, D, number("d")), ("m", 2, M, number("m")), ("qs", 16, HALVES, codes("q", 16, (0, 4), 15))]),
    "Q5_0": ("d · (q + 16 · fifth - 16)", [
        ("d", 2, D, number("d")), ("qh", 4, FIFTH, bits("fifth")),
        ("qs", 16, HALVES, codes("q", 16, (0, 4), 15))]),
    "Q5_1": ("d · (q + 16 · fifth) + m", [
        ("d", 2, D, number("d")), ("m", 2, M, number("m")), ("qh", 4, FIFTH, bits("fifth")),
        ("qs", 16, HALVES, codes("q", 16, (0, 4), 15))]),
    "Q2_K": ("d · scale · q - dmin · min", [
        ("scales", 16, "for each 16 weights: a scale in the low four bits, a minimum in the high ones", two_in_a_byte),
        ("qs", 64, TWO, codes("q", 32, (0, 2, 4, 6), 3)), ("d", 2, DD, number("d")), ("dmin", 2, DMIN, number("dmin"))]),
    "Q3_K": ("d · (scale - 32) · (q + 4 · third - 4)", [
        ("hmask", 32, "the third bits: bit g of byte j tops weight j + 32 g", codes("third", 32, range(8), 1)),
        ("qs", 64, TWO, codes("q", 32, (0, 2, 4, 6), 3)),
        ("scales", 12, "sixteen of six bits: bytes 0-7 the low four of two each, bytes 8-11 the upper two", sixteen_of_six_bits),
        ("d", 2, DD, number("d"))]),
    "Q4_K": ("d · scale · q - dmin · min", [
        ("d", 2, DD, number("d")), ("dmin", 2, DMIN, number("dmin")), ("scales", 12, SIX, six_bits),
        ("qs", 128, FOUR, codes("q", 32, (0, 4), 15))]),
    "Q5_K": ("d · scale · (q + 16 · fifth) - dmin · min", [
        ("d", 2, DD, number("d")), ("dmin", 2, DMIN, number("dmin")), ("scales", 12, SIX, six_bits),
        ("qh", 32, "the fifth bits: bit g of byte j tops weight j + 32 g", codes("fifth", 32, range(8), 1)),
        ("qs", 128, FOUR, codes("q", 32, (0, 4), 15))]),
    "Q6_K": ("d · scale · (q + 16 · upper - 32)", [
        ("ql", 128, "byte j of 64: the low four bits of weight j, and above them those of weight j + 64",
         codes("q", 64, (0, 4), 15)),
        ("qh", 64, "the upper two bits, byte j of 32: " + TWO.removeprefix("byte j of 32: two bits each "),
         codes("upper", 32, (0, 2, 4, 6), 3)),
        ("scales", 16, "a signed byte for each 16 weights", signed("scale")), ("d", 2, DD, number("d"))]),
    "IQ4_NL": ("d · value", [
        ("d", 2, "float16: the scale", number("d")),
        ("qs", 16, f"places in a table of sixteen values; {HALVES}", looked_up(IQ4_NL))]),
    "MXFP4": ("scale · value", [
        ("e", 1, "the scale, a power of two: 2^(e - 127)", power_of_two),
        ("qs", 16, f"floats of 1 bit of sign, 2 of exponent, 1 of mantissa; {HALVES}", looked_up(E2M1 / np.float32(2)))]),
    "NVFP4": ("scale · value", [
        ("d", 4, "e4m3 without a sign, for 16 weights each; the tensor NAME.scale has one more for all", unsigned_scales),
        ("qs", 32, "floats of 1 bit of sign, 2 of exponent, 1 of mantissa; byte j of 8: weights j, j + 8", small_floats)]),
    "FP8_E4M3": ("w", [("w", 1, "1 bit of sign, 4 of exponent, 3 of mantissa; the row's scale: NAME.scale", eight_bits)]),
    "NF4": ("d · level", [
        ("d", 2, "float16: the scale, the largest magnitude of the block", number("d")),
        ("qs", BLOCK // 2, "places in NF4's sixteen levels from -1 to 1, two a byte: the low four bits first", levels)]),
    **{affine_name(bits, group): ("d · q + m", [
        ("d", 2, D, number("d")), ("m", 2, M, number("m")),
        ("qs", packed_bytes(group, bits), f"{bits} bits for each of {group} weights with nothing between, the first lowest",
         side_by_side(bits, group))]) for bits, group in AFFINE},
}  # fmt: skip


def fields_of(type: BlockType) -> list[Field]:
    """List the fields of a type's block, in the order in which they lie. GGUFError for a type that is not decoded."""
    if type.name not in ANATOMY:
        raise GGUFError(f"blocks of type {type.name} are not taken apart; these are: {', '.join(ANATOMY)}.")
    fields, offset = [], 0
    for name, nbytes, says, read in ANATOMY[type.name][1]:
        fields.append(Field(name, offset, nbytes, says, read))
        offset += nbytes
    return fields


def walk(gguf: GGUFFile, name: str, index: int) -> Walk:
    """Take one block of a tensor apart. GGUFError for a tensor or a block that is not there, or a type that is not decoded."""
    info = gguf.tensor(name)
    fields, type = fields_of(info.type), info.type
    blocks = info.size // type.weights
    if not 0 <= index < blocks:
        raise GGUFError(f"{gguf.path}: tensor {quoted(name)} has blocks 0 to {blocks - 1:,}, found {index:,}.")
    raw = gguf.raw(name)[index * type.bytes : (index + 1) * type.bytes]
    row, first = divmod(index * type.weights, info.shape[-1])
    with np.errstate(invalid="ignore", over="ignore"):
        read = [(f, raw[f.offset :][: f.bytes].tobytes(), f.read(raw[None, f.offset : f.offset + f.bytes])) for f in fields]
        weights = dequantize(raw, type, (type.weights,))
    columns, offset = (first, first + type.weights - 1), info.offset + index * type.bytes
    return Walk(gguf.parts[info.part].path, name, type, index, blocks, row, columns, offset, ANATOMY[type.name][0], read, weights)


def lines(found: Walk) -> Iterator[str]:
    """Format a walk for people: the bytes of each field in hexadecimal, what they say, and the weights."""
    type, (first, last) = found.type, found.columns
    size = f"{type.weights} weight{'s' * (type.weights > 1)} in {type.bytes} bytes, {type.bits_per_weight:.4g} bits per weight"
    yield f"block {found.index:,} of {found.blocks:,} of {quoted(found.name)}, {type.name}: {size}"
    begin, end = found.offset, found.offset + type.bytes - 1
    where = f"column {first:,}" if first == last else f"columns {first:,} to {last:,}"
    yield f"row {found.row:,}, {where}; bytes {begin:,} to {end:,} of {found.file.name}"
    for field, raw, values in found.fields:
        yield f"\n{field.name}: {field.says}"
        for start in range(0, len(raw), 16):
            yield f"  {field.offset + start:5}  {raw[start : start + 16].hex(' ')}"
        for name, numbers in values.items():
            yield from rows(name, numbers)
    if found.formula != "w":
        yield f"\nw = {found.formula}"
        yield from rows("w", found.weights)


def rows(name: str, numbers: np.ndarray) -> Iterator[str]:
    """Format numbers, sixteen a line; small whole ones, thirty-two."""
    texts = [f"{v:.4g}" if isinstance(v, float) else f"{v}" for v in numbers.tolist()]
    width = max(map(len, texts))
    many = 32 if width <= 2 else 16 if width <= 6 else 8
    for start in range(0, len(texts), many):
        label = f"{name} =" if start == 0 else ""
        yield f"  {label:>10} " + " ".join(f"{text:>{width}}" for text in texts[start : start + many])
