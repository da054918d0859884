"""Files from strangers, changed at random: each loads or is refused with an error of our own, soon and in little memory.

    python tests/support/fuzz_files.py [--n 20000] [--only config,tokenizer] [--seed 0]

Eight kinds: config.json, tokenizer.json of both algorithms with its neighbours, safetensors headers, adapters (PEFT and GGUF),
checkpoints, GGUF metadata, and folders and files to be converted. Half of the changes know the format (a key dropped, another
type, deeper, larger, twice, exchanged), half are bytes. What loads is used: a text is encoded, a token computed. Prints a table,
and fails where anything but MiniLLMError came out, or a case took more than a second of processor time or 300 MB.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
import tracemalloc
import warnings
from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from minillm.backends import get_backend
from minillm.errors import MiniLLMError
from minillm.formats.gguf_write import write_gguf as write_file
from minillm.formats.safetensors import encoded
from minillm.model import adapter_files, write_folder, write_gguf
from minillm.model.defaults import recommended
from minillm.model.hf_folder import hub_name
from minillm.model.load import load_from
from minillm.model.random_model import CHATML, TINY, byte_metadata, random_tensor, tensor_shapes
from minillm.model.tokenizer.bpe import BYTE_TO_CHAR
from minillm.model.transformer import Segment
from minillm.model.write import model_metadata
from minillm.training import checkpoint
from minillm.training.lora import fresh_adapter

SECONDS, MEGABYTES = 1.0, 300
SHM = "/dev/shm" if Path("/dev/shm").is_dir() else None  # files in memory, where the system has that
CONFIG = replace(TINY, n_layers=1, d_model=32, n_heads=2, n_kv_heads=1, d_head=16, d_ff=32, vocab_size=272, context_length=64)
TEXT = "Hello <|im_end|> wörld cafe\u0301 1234\n\n \u2581"
BOS, EOS = "<|endoftext|>", "<|im_end|>"

HUB = {
    "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "head_dim": 16,
    "num_key_value_heads": 1, "intermediate_size": 32, "vocab_size": 272, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    "hidden_act": "silu", "rope_theta": 10000.0, "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False,
    "sliding_window": None, "eos_token_id": [261], "torch_dtype": "float32",
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                     "original_max_position_embeddings": 32},
}  # fmt: skip
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
PLAIN = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": BOS, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {BOS: {"id": BOS, "ids": [259], "tokens": [BOS]}},
}
TOKENIZER = {
    "version": "1.0", "truncation": None, "padding": None, "normalizer": {"type": "NFC"},
    "added_tokens": [{"id": 259 + i, "content": text, "special": i < 3} | PLAIN
                     for i, text in enumerate((BOS, "<|im_start|>", EOS, "<tool>"))],
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL]},
    "post_processor": {"type": "Sequence", "processors": [BYTE_LEVEL, TEMPLATE]}, "decoder": BYTE_LEVEL,
    "model": {"type": "BPE", "dropout": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
              "vocab": {c: i for i, c in enumerate(BYTE_TO_CHAR.values())} | {"lo": 256, "he": 257, "hel": 258},
              "merges": [["l", "o"], ["h", "e"], ["he", "l"]]},
}  # fmt: skip
OPTIONS = {
    "bos_token": BOS, "eos_token": {"content": EOS}, "add_bos_token": True, "tokenizer_class": "GPT2Tokenizer",
    "added_tokens_decoder": {"259": {"content": BOS}}, "chat_template": [{"name": "default", "template": CHATML}],
}  # fmt: skip
SPACE, WORDS = "\u2581", ("<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)))
SENTENCEPIECE = {
    "version": "1.0", "added_tokens": [{"id": i, "content": text, "special": True} | PLAIN for i, text in enumerate(WORDS[:3])],
    "normalizer": None, "post_processor": None,
    "pre_tokenizer": {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False},
    "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
    "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True,
              "merges": [["h", "e"], ["he", "l"], [SPACE, "h"], [SPACE, "he"], [SPACE + "h", "e"]],
              "vocab": {t: i for i, t in enumerate((*WORDS, SPACE, "h", "e", "l", "he", "hel", SPACE + "h", SPACE + "he"))}},
}  # fmt: skip
SPOKEN = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "chat_template": CHATML}
ABOUT = {"general.name": "x", "general.author": "y", "general.languages": ["en"]}
ENDS = {"eos_token_id": [261, 259], "temperature": 0.6, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.1}


# --- changes --------------------------------------------------------------------------------------------------------

SPELLED = {"@deep@": "[" * 100_000 + "]" * 100_000, "@digits@": "9" * 5000, "@huge@": "1e999", "@half@": "\\ud800"}
ODD = (
    None, True, False, 0, -1, 1, 2, 3.5, -0.0, 2**31, 2**63, 2**64, 10**12, 10**30, 10**400, float("nan"), float("inf"), 1e-320,
    "", "x", "LlamaForCausalLM", "yarn", "llama3", "linear", "BPE", "F32", "é" * 100_000, "@deep@", "@digits@", "@huge@",
    "@half@", [], {}, [[]], [1, 2], ["a"], [{}], {"a": 1}, [0] * 100_000, {"type": "Sequence"}, [None], "\x00\n", "a b",
    ["a b", "b c"],
)  # fmt: skip


def places(value, path=()):  # -> [path of a value within a value], the largest lists by a few of their elements
    found = [path] if path else []
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    inner = list(pairs)
    for key, child in inner[:6] + inner[6:][:: max(1, len(inner) // 6)]:
        found += places(child, (*path, key))
    return found


def changed(rng, value, odd=ODD):  # JSON value -> another one
    """One to three changes at random places. The value itself is left alone."""
    value = deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        where = places(value)
        if not where:
            return value
        *above, last = rng.choice(where)
        holder = value
        for key in above:
            holder = holder[key]
        what = rng.randrange(8)
        if what == 0:
            del holder[last]
        elif what == 1:
            holder[last] = [holder[last]] if rng.random() < 0.5 else {"a": holder[last]}
        elif what == 2 and isinstance(holder, dict):
            holder[str(last) + rng.choice(("_", "s", "\ud800", "é" * 999))] = holder.pop(last)
        elif what == 3 and isinstance(holder, dict):
            other = rng.choice(list(holder))
            holder[last], holder[other] = holder[other], holder[last]
        elif what in (4, 5) and isinstance(holder[last], int | float):
            holder[last] = rng.choice((1, 1, -1, 2, 1000, 10**9)) * holder[last] + rng.choice((0, 1, -1, 2))
        else:
            holder[last] = deepcopy(rng.choice(odd))
    return value


def spelled(rng, value):  # JSON value -> bytes
    """The text of it, at times with what no JSON writer writes."""
    text = json.dumps(value)
    for mark, what in SPELLED.items():
        text = text.replace(f'"{mark}"', what if what[0] in "[91" else f'"{what}"')
    if rng.random() < 0.1 and isinstance(value, dict) and value:
        key = rng.choice(list(value))
        text = "{" + f"{json.dumps(key)}: {json.dumps(rng.choice(ODD[:20]))}, " + text[1:]  # a key twice
    return flipped(rng, text.encode()) if rng.random() < 0.3 else text.encode()


def flipped(rng, data):  # bytes -> bytes
    """One to four changes of bytes: flipped, inserted, removed, doubled, cut off."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at, length = rng.randrange(len(data) + 1), rng.choice((1, 1, 1, 4, 8, 40))
        what = rng.randrange(8)
        if what < 4 and at < len(data):
            data[at] = data[at] ^ (1 << rng.randrange(8)) if what < 2 else rng.choice((0, 255, 44, 34, 123, 91, 57))
        elif what == 4:
            data[at:at] = rng.randbytes(length)
        elif what == 5:
            del data[at : at + length]
        elif what == 6:
            data[at:at] = data[at : at + length]
        elif rng.random() < 0.3:
            del data[at:]
    return bytes(data)


# --- the kinds ------------------------------------------------------------------------------------------------------


def parameters():
    return {name: random_tensor(name, shape, 0) for name, shape in tensor_shapes(CONFIG).items()}


def write_model_folder(folder):
    """A small model as a hub keeps it."""
    for name, values in (("config", HUB), ("tokenizer", TOKENIZER), ("tokenizer_config", OPTIONS), ("generation_config", ENDS)):
        (folder / f"{name}.json").write_text(json.dumps(values))
    (folder / "model.safetensors").write_bytes(b"".join(encoded({hub_name(n): w for n, w in parameters().items()})))


def use(path):
    """Load a model, encode a text, compute two steps, ask how it wants to be sampled."""
    recommended(path)
    transformer, tokenizer = load_from(path, get_backend("numpy"))
    tokenizer.decode(tokenizer.encode(TEXT, special=True))
    cache = transformer.new_cache(8)
    for tokens in ([1, 2, 3], [4])[: transformer.config.context_length - 3]:
        transformer.forward([Segment(np.array(tokens), cache.length, cache)])


class ModelFolder:
    """config.json, or tokenizer.json and its neighbours, of a folder that is right otherwise."""

    def __init__(self, folder, files):
        write_model_folder(folder)
        self.folder, self.files = folder, files

    def case(self, rng):
        for name, values in self.files.items():
            (self.folder / name).write_text(json.dumps(values))
        name = rng.choice(list(self.files))
        (self.folder / name).write_bytes(spelled(rng, changed(rng, self.files[name])))
        use(self.folder)


def with_header(rng, data):  # bytes of a safetensors file -> of another one
    length = int.from_bytes(data[:8], "little")
    header = spelled(rng, changed(rng, json.loads(data[8 : 8 + length])))
    claimed = len(header) if rng.random() < 0.9 else rng.choice((0, 2**40, 2**64 - 1, len(header) + 8))
    return claimed.to_bytes(8, "little") + header + data[8 + length :]


class Safetensors:
    def __init__(self, folder):
        write_model_folder(folder)
        self.path = folder / "model.safetensors"
        self.good = self.path.read_bytes()

    def case(self, rng):
        self.path.unlink(missing_ok=True)  # a mapping of the case before keeps the old file
        header = self.good[: 8 + int.from_bytes(self.good[:8], "little")]
        bad = flipped(rng, header) + self.good[len(header) :] if rng.random() < 0.3 else with_header(rng, self.good)
        self.path.write_bytes(bad)
        use(self.path.parent)


class Adapter:
    """A PEFT folder: its configuration, or the header of its weights; or a GGUF file."""

    def __init__(self, folder):
        self.folder, self.gguf, made = folder, folder / "a.gguf", fresh_adapter(CONFIG, 4, 8.0)
        adapter_files.save_peft(folder, made, CONFIG)
        adapter_files.save_gguf(self.gguf, made, CONFIG)
        names = (adapter_files.CONFIG, adapter_files.WEIGHTS)
        self.good = {folder / name: (folder / name).read_bytes() for name in names} | {self.gguf: self.gguf.read_bytes()}

    def case(self, rng):
        for path, data in self.good.items():
            path.unlink(missing_ok=True)
            path.write_bytes(data)
        about, weights, gguf = self.good
        bad = rng.choice(list(self.good))
        bad.unlink()
        if bad == about:
            bad.write_bytes(spelled(rng, changed(rng, json.loads(self.good[bad]))))
        elif bad == weights:
            bad.write_bytes(with_header(rng, self.good[bad]))
        else:
            bad.write_bytes(flipped(rng, self.good[bad][:400]) + self.good[bad][400:])
        adapter_files.load_adapter(gguf if bad == gguf else self.folder, CONFIG)


class Checkpoint:
    """Bytes of the archive, or the state and the names of the arrays in it."""

    configuration = {"run.seed": 1, "model.name": "x", "model.tied": True, "optimizer.rate": 0.1}

    def __init__(self, folder):
        arrays = {"a": np.ones((3, 4), np.float32), "b": np.ones(5, np.float32)}
        self.path, self.like = folder / "checkpoint.npz", arrays
        checkpoint.save(self.path, checkpoint.State(3, arrays, arrays, arrays, {"epoch": 0, "next": 1}), self.configuration)
        self.good = self.path.read_bytes()
        with np.load(self.path) as file:
            self.arrays = dict(file)

    def case(self, rng):
        if rng.random() < 0.5:
            self.path.write_bytes(flipped(rng, self.good))
        else:
            arrays = dict(self.arrays)
            if rng.random() < 0.7:
                state = spelled(rng, changed(rng, json.loads(arrays["state"].tobytes())))
                arrays["state"] = np.frombuffer(state, np.uint8)
            else:
                name = rng.choice(list(arrays))
                odd = (np.ones((2, 2)), np.ones((), "f2"), np.array(["a"]), np.array([np.nan], "f4"), np.ones(3, complex))
                arrays[rng.choice((name, "x", "parameters/", "../up"))] = rng.choice(odd)
            (np.savez if rng.random() < 0.9 else np.savez_compressed)(self.path, **arrays)
        checkpoint.load(self.path, self.configuration, self.like)


class GGUF:
    """Metadata of another type, through the writer where it can write them; or bytes of the part before the data."""

    odd = (
        0, -1, 1, 2**31, 2**63, True, False, 1.5, float("nan"), float("inf"), 1e-38, "", "x", "linear", "yarn", "é" * 100_000,
        np.array([1, 2]), np.array([], np.int32), ["a", "b"], [], [[1]], [["a"]], np.full(272, np.nan, np.float32), ["a"] * 272,
        np.zeros(272, np.int32), ["\u00e9"] * 10_000, np.float64(1e300), np.uint64(2**64 - 1), np.array(["a"] * 3).tolist(),
    )  # fmt: skip

    def __init__(self, folder):
        self.path, self.tensors = folder / "m.gguf", parameters()
        more = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0, "tokenizer.ggml.unknown_token_id": 0}
        more |= {"general.basename": "a", "general.size_label": "b", "tokenizer.minillm.eos_token_ids": [258], "split.count": 1}
        more |= {"general.sampling.temp": 0.5, "general.sampling.top_k": 40}
        self.metadata = model_metadata(CONFIG, byte_metadata(272), more)
        write_file(self.path, self.metadata, self.tensors)
        self.good = self.path.read_bytes()
        self.head = len(self.good) - 4 * sum(tensor.size for tensor in self.tensors.values())

    def change(self, rng):
        self.path.unlink(missing_ok=True)
        if rng.random() < 0.5:
            self.path.write_bytes(flipped(rng, self.good[: self.head]) + self.good[self.head :])
        else:
            write_file(self.path, changed(rng, self.metadata, self.odd), self.tensors)  # what it refuses counts as refused

    def case(self, rng):
        self.change(rng)
        use(self.path)


class Conversion:
    """A folder that becomes a GGUF file, or the file that becomes a folder: what is refused leaves nothing."""

    def __init__(self, folder):
        (folder / "from").mkdir()
        write_model_folder(folder / "from")
        self.folder = folder / "from"
        self.files = {"config.json": HUB, "tokenizer.json": TOKENIZER, "tokenizer_config.json": OPTIONS}
        self.files |= {"generation_config.json": ENDS, "gguf.json": ABOUT}
        self.gguf = GGUF(folder)

    def case(self, rng):
        out = self.folder.parent / "to"
        try:
            if rng.random() < 0.5:
                for name, values in self.files.items():
                    (self.folder / name).write_text(json.dumps(values))
                name = rng.choice(list(self.files))
                (self.folder / name).write_bytes(spelled(rng, changed(rng, self.files[name])))
                write_gguf.convert(self.folder, out)
            else:
                self.gguf.change(rng)
                write_folder.convert(self.gguf.path, out)
        except MiniLLMError:
            assert not out.exists() and not Path(f"{out}.part").exists(), "half of a conversion"
            raise
        shutil.rmtree(out) if out.is_dir() else out.unlink()


KINDS = {
    "config": lambda folder: ModelFolder(folder, {"config.json": HUB}),
    "tokenizer": lambda folder: ModelFolder(
        folder, {"tokenizer.json": TOKENIZER, "tokenizer_config.json": OPTIONS, "generation_config.json": ENDS}
    ),
    "sentencepiece": lambda folder: ModelFolder(folder, {"tokenizer.json": SENTENCEPIECE, "tokenizer_config.json": SPOKEN}),
    "safetensors": Safetensors,
    "adapter": Adapter,
    "checkpoint": Checkpoint,
    "gguf": GGUF,
    "conversion": Conversion,
}


# --- the run --------------------------------------------------------------------------------------------------------


class Memory:
    """Bytes that a case takes at its worst: resident ones, whose peak Linux lets us reset; what Python allocated, elsewhere."""

    def __init__(self):
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self.resident = True
        except OSError:
            self.resident = False
            tracemalloc.start()

    def begin(self):
        if self.resident:
            Path("/proc/self/clear_refs").write_text("5")
            self.before = self.status("VmRSS")
        else:
            tracemalloc.reset_peak()
            self.before = tracemalloc.get_traced_memory()[0]

    def taken(self):
        peak = self.status("VmHWM") if self.resident else tracemalloc.get_traced_memory()[1]
        return peak - self.before

    @staticmethod
    def status(key):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith(key + ":")).split()[1])


@dataclass
class Report:
    """Of one kind: how many loaded, how many were refused by which error, what came out else, and the costliest case."""

    cases: int = 0
    loaded: int = 0
    refused: Counter = field(default_factory=Counter)
    said: set = field(default_factory=set)  # messages, less their digits
    crashes: list = field(default_factory=list)
    seconds: float = 0.0
    megabytes: float = 0.0


def fuzz(kind, n, seed=0, tell=lambda done: None):  # -> Report
    """n cases of a kind; case i depends on the seed and i alone."""

    def case(subject, i):
        subject.case(random.Random(f"{kind} {seed} {i}"))

    return run(KINDS[kind], case, n, lambda i: f"{kind} {i}", MiniLLMError, tell)


def run(kind, case, n, name, ours, tell=lambda done: None):  # -> Report
    """n cases. kind(folder): what they are tried on. case(subject, i) tries one; ours: errors it may raise; name(i): its name."""
    report = Report()
    with tempfile.TemporaryDirectory(dir=SHM) as inside, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # overflow in weights from nowhere
        subject, memory = kind(Path(inside)), Memory()
        for i in range(n):
            memory.begin()
            begin = time.process_time()
            try:
                case(subject, i)
                report.loaded += 1
            except ours as error:
                report.refused[type(error).__name__] += 1
                message = str(error)
                report.said.add("".join(c for c in message.replace(inside, "") if not c.isdigit())[:50])
                if "\n" in message or len(message) > len(inside) + 700 or not message.isprintable():
                    report.crashes.append(f"{name(i)}: a message of {len(message):,} characters: {message[:200]!r}")
            except Exception as error:
                report.crashes.append(f"{name(i)}: {type(error).__name__}: {str(error)[:200]}")
            report.seconds = max(report.seconds, time.process_time() - begin)
            report.megabytes = max(report.megabytes, memory.taken() / 1e6)
            report.cases += 1
            tell(i + 1)
    return report


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(KINDS), help="kinds, with commas")
    args = parser.parse_args()
    failed = False
    for kind in args.only.split(","):

        def tell(done, kind=kind):
            if done % 1000 == 0:
                print(f"{kind}: {done:,} of {args.n:,}", file=sys.stderr)

        report = fuzz(kind, args.n, args.seed, tell)
        refused = ", ".join(f"{name} {count:,}" for name, count in report.refused.most_common())
        print(
            f"{kind:12} {report.cases:,} cases: {report.loaded:,} loaded, refused: {refused}, {len(report.said):,} messages; "
            f"crashes {len(report.crashes)}; worst {report.seconds:.2f} s, {report.megabytes:.0f} MB",
            flush=True,
        )
        print(*report.crashes[:10], sep="\n", end="\n" if report.crashes else "")
        failed |= bool(report.crashes) or report.seconds > SECONDS or report.megabytes > MEGABYTES
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
