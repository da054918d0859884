"""llama.cpp's greedy tokens, for the scripts beside this one that record them. Needs llama-cpp-python, and no code of minillm."""

import llama_cpp
import numpy as np


def loaded(path):  # path -> llama_cpp.Llama
    return llama_cpp.Llama(str(path), n_ctx=256, n_threads=1, logits_all=True, verbose=False)


def greedy_after(model, prompt, count, add_bos):  # -> prompt ids, token ids, of each the lead of its logit over the second
    model.reset()
    ids = model.tokenize(prompt.encode(), add_bos=add_bos, special=False)
    model.eval(ids)
    greedy, leads = [], []
    for _ in range(count):
        logits = model.scores[model.n_tokens - 1]
        greedy.append(int(np.argmax(logits)))
        leads.append(float(np.diff(np.sort(logits)[-2:])[0]))
        model.eval(greedy[-1:])
    return ids, greedy, [round(lead, 4) for lead in leads]
