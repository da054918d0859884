"""Proposers for tests: one that knows the answers and errs on purpose, one that draws from a table, one that counts."""

import numpy as np

from minillm.model.sampling import draw
from minillm.speculative.proposer import Draft


class Counting:
    """A proposer that is watched: how many of its drafts came to be text, and how many did not."""

    def __init__(self, proposer):
        self.proposer, self.asked = proposer, {}
        self.accepted = self.rejected = 0

    def propose(self, texts, most):
        for text in texts:
            self.judge(text.key, list(text.tokens))
        drafts = self.proposer.propose(texts, most)
        for text, draft, n in zip(texts, drafts, most, strict=True):
            assert len(draft.tokens) <= n and len(draft.q) in (0, len(draft.tokens))
            self.asked[text.key] = len(text.tokens), draft.tokens
        return drafts

    def judge(self, key, tokens):
        """Compare the last draft with what the text became. A draft that had no room was rejected by nobody."""
        if key in self.asked:
            start, draft = self.asked.pop(key)
            grown = tokens[start:]
            most = min(len(draft), len(grown) - 1)
            kept = next((i for i, (a, b) in enumerate(zip(draft, grown, strict=False)) if a != b), most)
            self.accepted += kept
            self.rejected += len(draft) > kept

    def forget(self, key):
        self.proposer.forget(key)


class Knowing:
    """It knows how each text goes on, and drafts that: but of its drafts some are cut by a wrong token at some place."""

    def __init__(self, answers, seed=0, vocab=259):
        self.answers, self.vocab = answers, vocab  # answers: {(request, index): all tokens}
        self.rng = np.random.default_rng(seed)

    def propose(self, texts, most):
        found = []
        for text, n in zip(texts, most, strict=True):
            right = list(self.answers[tuple(text.key)][len(text.tokens) : len(text.tokens) + n])
            if right and self.rng.random() < 0.6:
                at = int(self.rng.integers(len(right)))
                right[at] = (right[at] + 1) % self.vocab
            found.append(Draft(right))
        return found

    def forget(self, key):
        pass


class Drawing:
    """It draws from a table of distributions: row of the last token."""

    def __init__(self, table, seed):
        self.table, self.rng = table, np.random.default_rng(seed)

    def propose(self, texts, most):
        found = []
        for text, n in zip(texts, most, strict=True):
            last, draft = text.tokens[-1], Draft()
            for _ in range(n):
                q = self.table[last]
                last = draw(q, self.rng)
                draft.tokens.append(last)
                draft.q.append(q)
            found.append(draft)
        return found

    def forget(self, key):
        pass
