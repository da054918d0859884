"""Does a model recite? The share of its runs of n words that stand so in what it learned from.

Short runs do, in any text of this world: a grammar has so many wordings. So held-out stories, which nobody learned from, are
counted too: a model recites where its share lies above theirs. Runs are compared by a number made of their words' numbers,

    number = (… (w₁ · b + w₂) · b + …) · b + wₙ   modulo 2⁶⁴, b odd

so that eight million of them are an array that is sorted once; two different runs share a number with a chance of 10⁻¹⁰ or so.
"""

import re

import numpy as np

BASE = np.uint64(0x9E3779B97F4A7C15)
LENGTHS = (8, 16, 24)  # words


def shares(sets, learned):  # {name: [text]}, [text] -> {"8": {name: share}}
    """Compute for each length, and for each set of texts, the share of runs that stand in a text of `learned`."""
    numbers = {}

    def coded(text):
        return np.array([numbers.setdefault(w, len(numbers) + 1) for w in re.findall(r"[\w']+", text)], np.uint64)

    known = [coded(text) for text in learned]
    asked = {name: [coded(text) for text in texts] for name, texts in sets.items()}
    found = {}
    for n in LENGTHS:
        have = np.unique(np.concatenate([runs(words, n) for words in known]))
        found[str(n)] = {name: share(np.concatenate([runs(words, n) for words in texts]), have) for name, texts in asked.items()}
    return found


def runs(words, n):  # (k,) uint64 -> (k - n + 1,) uint64; none where the text is shorter
    count = len(words) - n + 1
    code = np.zeros(max(0, count), np.uint64)
    for i in range(n if count > 0 else 0):
        code = code * BASE + words[i : i + count]
    return code


def share(codes, have):  # (k,), sorted (m,) -> float
    at = np.minimum(np.searchsorted(have, codes), len(have) - 1)
    return round(float((have[at] == codes).mean()), 4) if len(codes) else 0.0
