"""llama.cpp's half of the comparisons in quantized_models.py and quantized_orders.py: it quantizes the same F16 files, and reads
ours and its own.

    python record_quantized.py FOLDER

Needs llama-cpp-python, numpy and gguf, and runs no code of minillm. Written into the folder of each model, for each file: its own
quantized file, the logits of both files after every token of the prompts, and whether all tensors have the same types. What is
there already stays, so a run that was stopped goes on where it was.
"""

import importlib.metadata
import json
import pathlib
import sys

import numpy as np
from llama_cpp_logits import Model
from llama_cpp_quantizer import quantize, types
from mix_models import MIXES


def keep_logits(path, prompts):
    """Write PATH's logits beside it; under their name only when all of them are there."""
    if path.with_suffix(".npy").exists():
        return
    model, part = Model(path), path.with_suffix(".part")
    with part.open("wb") as file:
        np.save(file, np.concatenate([model.logits(ids) for ids in prompts]))
    model.close()
    part.rename(path.with_suffix(".npy"))


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    for where in sorted(path.parent for path in folder.glob("*/base.gguf")):
        prompts = json.loads((where / "prompts.json").read_text()) if (where / "prompts.json").exists() else []
        imatrix, equal = dict(np.load(where / "imatrix.npz")), {}
        for ours in sorted(path for path in where.glob("*.gguf") if "llama" not in path.name and path.stem != "base"):
            theirs, (mix, _, steered) = where / f"{ours.stem}.llama.gguf", ours.stem.partition("+")
            if not theirs.exists():
                part = where / "part"
                quantize(where / "base.gguf", part, MIXES[mix], imatrix if steered else None, pure=mix == "mxfp4")
                part.rename(theirs)
            equal[ours.stem] = types(ours) == types(theirs)
            if prompts:  # else it is no model to be run, its columns are shuffled (quantized_orders.py)
                keep_logits(ours, prompts)
                keep_logits(theirs, prompts)
            print(where.name, ours.stem, equal[ours.stem], file=sys.stderr)
        (where / "types.json").write_text(json.dumps(equal))
    (folder / "version.json").write_text(json.dumps(importlib.metadata.version("llama-cpp-python")))
