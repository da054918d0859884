"""Trees of drafts, a demonstration in NumPy: several guesses at each place, checked in one pass, and still lossless.

    text ▌─┬─ a ─┬─ c          one pass over five nodes. A node sees the text and its ancestors, so the pass needs
           │     └─ d          a mask of its own; its position is its depth, so two nodes may share one
           └─ b ─── e

Siblings are drawn from one q, independently. The first is kept with min(1, p(x) / q(x)). Where it is not, the target's
distribution becomes what is left of it, and the next sibling is judged by that:

    p₁ = p        p_{r+1} ∝ max(p_r - q, 0)        α_r = Σ min(p_r, q)        some sibling is kept: 1 - Π (1 - α_r)

Where all are rejected, a token is drawn from what is left: each round is lossless, so all are. The engine drafts chains: a tree
pays where a token more costs a step nothing, and its kernels have no such mask. Miao et al. 2023, arXiv:2305.09781 (SpecInfer);
Li et al. 2024, arXiv:2406.16858 (EAGLE-2) grow the tree where the draft is sure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minillm.costs.speculation import acceptance_rate
from minillm.layers import softmax
from minillm.model.sampling import draw


@dataclass
class Tree:
    """Drafts that share beginnings. Node i follows parents[i], an earlier one, or -1: the end of the text.

    q: for each node the distribution (vocab,) that it was drawn from; that of its siblings is the same.
    """

    parents: list[int]
    tokens: list[int]
    q: list[np.ndarray]

    def children(self, node: int) -> list[int]:
        """List the nodes that follow a node, in the order in which they were drawn."""
        return [i for i, parent in enumerate(self.parents) if parent == node]


def depths(parents: Sequence[int]) -> np.ndarray:  # -> (n,) 0 for what follows the text
    """Count the ancestors of each node: its position behind the text."""
    found: list[int] = []
    for parent in parents:
        found.append(0 if parent < 0 else found[parent] + 1)
    return np.array(found, np.int64)


def tree_mask(parents: Sequence[int], past: int = 0) -> np.ndarray:  # -> (n, past + n) bool, True where a key is visible
    """Make the mask of a pass over a tree behind `past` tokens: each node sees the text, its ancestors and itself."""
    n = len(parents)
    seen = np.eye(n, dtype=bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            seen[node] |= seen[parent]
    return np.concatenate([np.ones((n, past), bool), seen], axis=1)


def masked_attention(  # (n, d), (past + n, d), (past + n, d), (n, past + n) -> (n, d)
    q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray
) -> np.ndarray:
    """Compute one head of attention where a mask says who sees whom."""
    scores = np.where(mask, q @ k.T / np.sqrt(q.shape[1]), -np.inf)
    return softmax(scores) @ v


def rounds(  # (vocab,), (vocab,), [token] -> [chance], (vocab,)
    p: np.ndarray, q: np.ndarray, tokens: Sequence[int]
) -> tuple[list[float], np.ndarray]:
    """Judge siblings one by one: the chance that each is kept if those before were not, and what is left of p after all."""
    chances = []
    for token in tokens:
        chances.append(min(1.0, float(p[token] / q[token])))
        left = np.maximum(p - q, 0)
        if left.sum() > 0:  # else p = q: the first is always kept, and nothing is left to judge by
            p = left / left.sum()
    return chances, p


def acceptance(p: np.ndarray, q: np.ndarray, width: int) -> float:  # -> 0 … 1
    """Compute the chance that one of so many siblings is kept. What is left of p does not depend on which were rejected."""
    none = 1.0
    for _ in range(width):
        none *= 1 - acceptance_rate(p, q)
        _, p = rounds(p, q, [int(q.argmax())])
    return 1 - none


def verify_tree(  # [(vocab,)] n + 1 of them, Tree, Generator -> [token]
    p: Sequence[np.ndarray], tree: Tree, rng: np.random.Generator
) -> list[int]:
    """Walk down the tree along what is kept, then add one more token.

    p: the target's distributions: after the text, then after each node.
    """
    node, found = -1, list[int]()
    while True:
        siblings = tree.children(node)
        chances, left = rounds(p[node + 1], tree.q[siblings[0]] if siblings else p[node + 1], [tree.tokens[i] for i in siblings])
        node = next((i for i, chance in zip(siblings, chances, strict=True) if rng.random() < chance), -1)
        if node < 0:
            return [*found, draw(left, rng)]
        found.append(tree.tokens[node])
