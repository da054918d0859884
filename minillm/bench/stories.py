"""Does a model read what it is told? Questions about a story with four answers to choose from: `minillm bench stories`.

    score of an answer = log p(its tokens | story, question)      the highest is the model's choice

Chance is one in four; the error is that of a share, √(p (1 - p) / n). Wrong answers come from the story too where it has them, so
that to look which words occur is not enough: data/corpus/statistics.json says how far that goes (by_mention). The story is
computed once; its cache is cut back to it before each answer.

Items are lines of JSON: story, question, choices, answer (a number), about. Ours are held out: no model saw their stories.
"""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minillm import terminal
from minillm.errors import MiniLLMError
from minillm.llm import LLM
from minillm.model.sampling import log_softmax
from minillm.model.transformer import Segment
from minillm.training.data import read_corpus

FIELDS = {"story": str, "question": str, "choices": list, "answer": int, "about": str}


def read_items(path: str | Path) -> list[dict[str, Any]]:
    """Read question items, packed or not. MiniLLMError names the first line that is none."""
    items = []
    for number, line in enumerate(read_corpus(path).splitlines(), 1):
        try:
            item = json.loads(line)
            right = all(isinstance(item[name], kind) for name, kind in FIELDS.items())
            right = right and 0 <= item["answer"] < len(item["choices"]) and all(isinstance(c, str) for c in item["choices"])
        except (ValueError, KeyError, TypeError):
            right = False
        if not right:
            raise MiniLLMError(f"{path}, line {number}: a question is a JSON object with {', '.join(FIELDS)}; see data/corpus.")
        items.append(item)
    return items


def scores(llm: LLM, item: dict[str, Any]) -> list[float]:  # -> log-probability of each choice
    """Compute what the model makes of each answer, behind the story and the question, as the corpus writes them."""
    prompt = llm.tokenizer.encode(f"{item['story']}\n\nQ: {item['question']}\nA:")
    cache = llm.transformer.new_cache(len(prompt) + 32)
    first = llm.transformer.forward([Segment(prompt, 0, cache)])[0]
    found = []
    for choice in item["choices"]:
        ids = llm.tokenizer.encode(f" {choice}", bos=False)
        cache.truncate(len(prompt))
        after = llm.transformer.forward([Segment(ids, len(prompt), cache, "all")])[0]
        rows = log_softmax(np.concatenate([first, after[:-1]]))
        found.append(float(rows[np.arange(len(ids)), ids].sum()))
    return found


def run(llm: LLM, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Ask all items. The result has the share of right answers, its error, chance, and the shares by what is asked for."""
    if not items:
        raise MiniLLMError("there is no question to ask; --items must be at least 1, and the file not empty.")
    right: dict[str, list[bool]] = {}
    with terminal.bar(len(items), "question") as bar:
        for item in items:
            choice = int(np.argmax(scores(llm, item)))
            right.setdefault(kind_of(item["about"]), []).append(choice == item["answer"])
            bar.update()
    share = mean(hit for hits in right.values() for hit in hits)
    return {
        "model": llm.config.name,
        "items": len(items),
        "right": share,
        "error": math.sqrt(share * (1 - share) / len(items)),
        "chance": mean(1 / len(item["choices"]) for item in items),
        "by_kind": {kind: {"items": len(hits), "right": mean(hits)} for kind, hits in sorted(right.items())},
    }


def kind_of(about: str) -> str:
    """Name what is asked for: `n` is the grammar's hero, `f` a friend, `n.likes` what the hero likes; else of the plot."""
    person, _, what = about.partition(".")
    if about in ("n", "f", "t"):
        return "who"
    return what if person in ("n", "f", "t") and what else "colour" if what == "colour" else "plot"


def mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)


def table(result: dict[str, Any]) -> str:
    rows = [[kind, f"{r['items']:,}", f"{r['right']:.1%}"] for kind, r in result["by_kind"].items()]
    rows.append(["all", f"{result['items']:,}", f"{result['right']:.1%} ± {result['error']:.1%}"])
    return "\n".join([
        terminal.table([f"{result['model']}: asked for", "questions", "right"], rows),
        f"a guess is right in {result['chance']:.0%}",
    ])  # fmt: skip
