"""Small GGUF files for tests, written by the gguf package: every metadata type, every tensor type.

Nothing here comes from the reader under test. Where the package cannot quantize (the k-quants), blocks are random bytes with
float16 scales set to small numbers, so that weights are finite.
"""

import struct
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType
from gguf_bytes import entry, tensor, u32, u64
from our_blocks import OURS, UNPACKED, random_ours

ARRAY = GGUFValueType.ARRAY
TYPES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
HALVES = {  # where a block has its float16 numbers, in bytes
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "MXFP4": (),
}  # fmt: skip
METADATA = (  # key, value, type, type of an array's elements
    ("t.u8", 255, GGUFValueType.UINT8, None),
    ("t.i8", -128, GGUFValueType.INT8, None),
    ("t.u16", 65535, GGUFValueType.UINT16, None),
    ("t.i16", -32768, GGUFValueType.INT16, None),
    ("t.u32", 2**32 - 1, GGUFValueType.UINT32, None),
    ("t.i32", -(2**31), GGUFValueType.INT32, None),
    ("t.u64", 2**64 - 1, GGUFValueType.UINT64, None),
    ("t.i64", -(2**63), GGUFValueType.INT64, None),
    ("t.f32", 0.5, GGUFValueType.FLOAT32, None),
    ("t.f64", 0.1, GGUFValueType.FLOAT64, None),
    ("t.true", True, GGUFValueType.BOOL, None),
    ("t.false", False, GGUFValueType.BOOL, None),
    ("t.string", "naïve 🦊 \x00 \n", GGUFValueType.STRING, None),
    ("t.empty", "", GGUFValueType.STRING, None),
    ("t.array.u8", [0, 255], ARRAY, GGUFValueType.UINT8),
    ("t.array.i8", [-128, 127], ARRAY, GGUFValueType.INT8),
    ("t.array.u16", [0, 65535], ARRAY, GGUFValueType.UINT16),
    ("t.array.i16", [-32768, 32767], ARRAY, GGUFValueType.INT16),
    ("t.array.u32", [0, 2**32 - 1], ARRAY, GGUFValueType.UINT32),
    ("t.array.i32", [-(2**31), 2**31 - 1], ARRAY, GGUFValueType.INT32),
    ("t.array.u64", [0, 2**64 - 1], ARRAY, GGUFValueType.UINT64),
    ("t.array.i64", [-(2**63), 2**63 - 1], ARRAY, GGUFValueType.INT64),
    ("t.array.f32", [0.5, -1.25], ARRAY, GGUFValueType.FLOAT32),
    ("t.array.f64", [0.1, 1e300], ARRAY, GGUFValueType.FLOAT64),
    ("t.array.bool", [True, False, True], ARRAY, GGUFValueType.BOOL),
    ("t.array.string", ["a", "", "é", "<|im_end|>"], ARRAY, GGUFValueType.STRING),
    ("t.array.nested", [[1, 2], [3], [-4, 5, 6]], ARRAY, ARRAY),
    ("t.array.strings", [["a", "b"], ["c"]], ARRAY, ARRAY),
)


def random_blocks(type, shape, rng, finite=True):  # -> (rows, bytes of a row) uint8
    """Blocks of random bytes. finite: with scales of about 1/100, otherwise whatever comes, NaN and infinity included."""
    if type in (*OURS, *UNPACKED):
        return random_ours(type, shape, rng, finite)
    block, nbytes = gguf.GGML_QUANT_SIZES[GGMLQuantizationType[type]]
    blocks = rng.integers(0, 256, (int(np.prod(shape)) // block, nbytes), dtype=np.uint8)
    for at in HALVES.get(type, ()) if finite else ():
        blocks[:, at : at + 2] = rng.normal(0, 0.01, (len(blocks), 1)).astype("<f2").view(np.uint8)
    if type == "MXFP4" and finite:  # its first byte is the exponent of a power of two
        blocks[:, 0] = rng.integers(118, 123, len(blocks))
    return blocks.reshape(*shape[:-1], -1)


def stored(weights, type, rng):  # float32 array -> bytes as the type stores them, uint8
    """The array quantized, or random blocks of its shape where the gguf package cannot quantize."""
    try:
        return gguf.quants.quantize(weights, GGMLQuantizationType[type]).view(np.uint8)
    except NotImplementedError:
        return random_blocks(type, weights.shape, rng)


def write_gguf(path, tensors=(), metadata=(), arch="llama", alignment=None):
    """tensors: (name, uint8 bytes of shape (..., bytes of a row), type); metadata: rows like METADATA's. Returns path."""
    writer = gguf.GGUFWriter(path, arch)
    if alignment:
        writer.add_custom_alignment(alignment)
    for row in metadata:
        writer.add_key_value(*row)
    for name, data, type in tensors:
        writer.add_tensor(name, data, raw_dtype=GGMLQuantizationType[type])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_specimen(path, types=TYPES, seed=0, metadata=METADATA, alignment=None):
    """A file of a few KB with every metadata type and a tensor of each type."""
    rng = np.random.default_rng(seed)
    shapes = [(2, 256), (3, 512), (256,), (2, 1, 256), (1, 2, 1, 256)]
    tensors = [
        (f"blk.{i}.{type.lower()}.weight", stored(rng.normal(size=shapes[i % len(shapes)]).astype(np.float32), type, rng), type)
        for i, type in enumerate(types)
    ]
    return write_gguf(path, tensors, metadata, alignment=alignment)


def split_file(path, stem, max_tensors, small_first=False):  # -> [paths of the parts]
    """A file as llama.cpp splits it: NAME-00001-of-00003.gguf … beside `stem`, written by the gguf package."""
    reader = gguf.GGUFReader(path)
    arch = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(f"{stem}.gguf", arch, split_max_tensors=max_tensors, small_first_shard=small_first)
    for field in reader.fields.values():
        if field.name != "general.architecture" and not field.name.startswith("GGUF."):
            kind = field.types[0]
            writer.add_key_value(field.name, field.contents(), kind, field.types[-1] if kind == ARRAY else None)
    for t in reader.tensors:
        writer.add_tensor(t.name, t.data, raw_dtype=t.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return writer.format_shard_names(writer.path)


def llama_split_file(path, stem, max_tensors):  # -> [paths of the parts]
    """As llama.cpp's own tool splits a file, byte for byte (golden/record_split.py): split.* after the first part's metadata."""
    whole, tensors = Path(path).read_bytes(), gguf.GGUFReader(path).tensors
    groups, paths = [tensors[i : i + max_tensors] for i in range(0, len(tensors), max_tensors)], []
    for number, group in enumerate(groups):
        values = {"no": (2, "<H", number), "tensors.count": (5, "<i", len(tensors)), "count": (2, "<H", len(groups))}
        own = b"".join(entry(f"split.{key}", kind, struct.pack(form, value)) for key, (kind, form, value) in values.items())
        metadata = b"" if number else whole[24 : tensors[0].field.offset]
        infos, data = b"", b""
        for t in group:
            infos += tensor(t.name, t.shape.tolist(), int(t.tensor_type), len(data))
            data += t.data.tobytes() + bytes(-t.n_bytes % 32)
        entries = 3 + (0 if number else struct.unpack("<Q", whole[16:24])[0])
        head = b"GGUF" + u32(3) + u64(len(group)) + u64(entries) + metadata + own + infos
        paths.append(Path(f"{stem}-{number + 1:05d}-of-{len(groups):05d}.gguf"))
        paths[-1].write_bytes(head + bytes(-len(head) % 32) + data)
    return paths
