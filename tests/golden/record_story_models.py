"""Record what llama.cpp says with the models that come with the package: prompt ids, and greedy tokens after them.

    python record_story_models.py ../../data/models [OUT.json]

It needs llama-cpp-python, which the tests never import, and runs no code of minillm. least_lead: that of the best logit over
the second, for F16 rounds.
"""

import importlib.metadata
import json
import pathlib
import sys

import llama_cpp
import numpy as np

PROMPTS = ("Once upon a time", "One day, Lily went to the park and found", "It was a rainy day. Tom the bear", '"Oh no!" said')
NEW_TOKENS = 64


def answers(path):
    model = llama_cpp.Llama(str(path), n_ctx=256, n_threads=1, logits_all=True, verbose=False)
    kept = {}
    for prompt in PROMPTS:
        model.reset()
        ids = model.tokenize(prompt.encode(), add_bos=True, special=False)
        model.eval(ids)
        greedy, lead = [], []
        for _ in range(NEW_TOKENS):
            logits = model.scores[model.n_tokens - 1]
            greedy.append(int(np.argmax(logits)))
            lead.append(float(np.diff(np.sort(logits)[-2:])[0]))
            model.eval(greedy[-1:])
        kept[prompt] = {"prompt_ids": ids, "tokens": greedy, "least_lead": round(min(lead), 4)}
    return kept


if __name__ == "__main__":
    here = pathlib.Path(__file__).parent
    out = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else here / "story_models.json"
    models = {name: answers(pathlib.Path(sys.argv[1]) / f"{name}.gguf") for name in ("tiny", "tiny-draft")}
    version = importlib.metadata.version("llama-cpp-python")
    out.write_text(json.dumps({"llama-cpp-python": version, **models}, ensure_ascii=False) + "\n")
