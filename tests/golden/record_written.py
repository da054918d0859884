"""Record what llama.cpp makes of files that minillm wrote: the ids of a prompt, and 16 greedy tokens after it.

    PYTHONPATH=../.. python written_models.py FOLDER
    python record_written.py FOLDER [OUT.json]

The second step needs llama-cpp-python, which the tests never import, and runs no code of minillm. Kept with each model: the
sha256 of the file that was read; with each prompt: the least lead of the best logit over the second, for F16 rounds.
"""

import hashlib
import importlib.metadata
import json
import pathlib
import sys

from llama_cpp_greedy import greedy_after, loaded

PROMPTS = ("Once upon a time", "the owl's 3 friends:  fox\n")
NEW_TOKENS = 16


def answers(path):
    model, kept = loaded(path), {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "prompts": []}
    for prompt in PROMPTS:
        ids, greedy, leads = greedy_after(model, prompt, NEW_TOKENS, add_bos=False)
        kept["prompts"].append({"text": prompt, "ids": ids, "greedy": greedy, "least_lead": min(leads)})
    return kept


if __name__ == "__main__":
    here = pathlib.Path(__file__).parent
    out = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else here / "written.json"
    models = {path.stem: answers(path) for path in sorted(pathlib.Path(sys.argv[1]).glob("*.gguf"))}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in models.items())
    version = importlib.metadata.version("llama-cpp-python")
    out.write_text(f'{{"llama-cpp-python": {json.dumps(version)}, "models": {{\n{lines}\n}}}}\n')
