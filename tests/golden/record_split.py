"""Record how llama.cpp's own tool splits `tiny` into several files: the SHA-256 of each.

    python record_split.py LLAMA_GGUF_SPLIT [OUT.json]

Needs llama.cpp's program `llama-gguf-split` (tools/gguf-split), and no code of minillm. A test's own writer must make the same
bytes (support/gguf_files.py, llama_split_file), and those are what is loaded.
"""

import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile

TINY = pathlib.Path(__file__).parents[2] / "data" / "models" / "tiny.gguf"
MAX_TENSORS = (9, 56)  # of a file: several parts, the last one smaller; and all in one


def split(program, max_tensors):  # -> {name of a part: SHA-256}
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "--split", "--split-max-tensors", str(max_tensors), str(TINY), f"{folder}/tiny"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(pathlib.Path(folder).iterdir())}


if __name__ == "__main__":
    out = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else pathlib.Path(__file__).with_name("split.json")
    found = {"made by": "llama.cpp, as of llama-cpp-python 0.3.36"}
    found["parts"] = {str(most): split(sys.argv[1], most) for most in MAX_TENSORS}
    out.write_text(json.dumps(found, indent=1) + "\n")
