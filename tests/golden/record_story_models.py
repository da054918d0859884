"""Record what llama.cpp says with the models that come with the package: prompt ids, and greedy tokens after them.

    python record_story_models.py ../../data/models [OUT.json]

It needs llama-cpp-python, which the tests never import, and runs no code of minillm. leads: of the best logit over the
second, for F16 rounds.
"""

import importlib.metadata
import json
import pathlib
import sys

from llama_cpp_greedy import greedy_after, loaded

PROMPTS = ("Once upon a time", "One day, Lily went to the park and found", "It was a rainy day. Tom the bear", '"Oh no!" said')
NEW_TOKENS = 64


def answers(path):
    model, kept = loaded(path), {}
    for prompt in PROMPTS:
        ids, greedy, leads = greedy_after(model, prompt, NEW_TOKENS, add_bos=True)
        kept[prompt] = {"prompt_ids": ids, "tokens": greedy, "leads": leads}
    return kept


if __name__ == "__main__":
    here = pathlib.Path(__file__).parent
    out = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else here / "story_models.json"
    models = {name: answers(pathlib.Path(sys.argv[1]) / f"{name}.gguf") for name in ("tiny", "tiny-draft")}
    version = importlib.metadata.version("llama-cpp-python")
    out.write_text(json.dumps({"llama-cpp-python": version, **models}, ensure_ascii=False) + "\n")
