"""Trees of drafts are lossless: all trees of six nodes over four words, by counting. And a node sees its ancestors alone."""

from itertools import pairwise, product

import numpy as np
import pytest

from minillm.attention.naive import attention_head
from minillm.costs.speculation import acceptance_rate
from minillm.speculative.tree import Tree, acceptance, depths, masked_attention, rounds, tree_mask, verify_tree

P = np.array([[6, 3, 2, 1], [4, 4, 2, 2], [1, 1, 9, 1], [3, 0, 3, 6], [2, 5, 5, 0]]) / 12  # after the text; after each word
Q = np.array([[3, 3, 3, 3], [2, 2, 4, 4], [3, 3, 3, 3], [6, 3, 2, 1], [1, 5, 5, 1]]) / 12
PARENTS = [-1, -1, 0, 0, 1, 1]


def tree_of(words):
    return Tree(PARENTS, list(words), [Q[0], Q[0], *(Q[words[parent] + 1] for parent in PARENTS[2:])])


def texts(tree, node=-1, rule=rounds):  # -> {text: chance}, of one tree
    """Follow each way that random numbers can go."""
    word = None if node < 0 else tree.tokens[node]
    siblings, p = tree.children(node), P[0 if word is None else word + 1]
    chances, left = rule(p, tree.q[siblings[0]] if siblings else p, [tree.tokens[i] for i in siblings])
    found, reached = {}, 1.0
    for child, chance in zip(siblings, chances, strict=True):
        for rest, weight in texts(tree, child, rule).items():
            text = (tree.tokens[child], *rest)
            found[text] = found.get(text, 0) + reached * chance * weight
        reached *= 1 - chance
    for token in range(4):
        found[token,] = found.get((token,), 0) + reached * left[token]
    return found


def all_texts(rule=rounds):
    found = {}
    for words in product(range(4), repeat=6):
        tree = tree_of(words)
        weight = np.prod([q[word] for q, word in zip(tree.q, words, strict=True)])
        for text, chance in texts(tree, rule=rule).items():
            found[text] = found.get(text, 0) + weight * chance
    return found


def off(found):
    """How far each word, given what came before it and that the text went on, is from the target's."""
    worst = 0.0
    for before in [(), *((a,) for a in range(4)), *product(range(4), repeat=2)]:
        then = np.zeros(4)
        for text, chance in found.items():
            if len(text) > len(before) and text[: len(before)] == before:
                then[text[len(before)]] += chance
        if then.sum() > 0:
            worst = max(worst, np.abs(then / then.sum() - P[before[-1] + 1 if before else 0]).max())
    return worst


def test_all_trees_over_four_words_leave_the_targets_distribution():
    found = all_texts()
    assert sum(found.values()) == pytest.approx(1) and {len(text) for text in found} == {1, 2, 3}
    assert off(found) < 1e-12
    kept = sum(chance for text, chance in found.items() if len(text) > 1)
    assert kept == pytest.approx(acceptance(P[0], Q[0], 2)) and kept > acceptance_rate(P[0], Q[0])


def judged_by_p(p, q, tokens):
    """Each sibling by the target's first distribution: a second chance that nobody paid for."""
    _, left = rounds(p, q, tokens)
    return [min(1.0, p[token] / q[token]) for token in tokens], left


def drawn_from_p(p, q, tokens):
    return rounds(p, q, tokens)[0], p


@pytest.mark.parametrize("rule", [judged_by_p, drawn_from_p])
def test_wrong_rules_are_seen(rule):
    assert off(all_texts(rule)) > 0.01


class Scripted:
    def __init__(self, numbers):
        self.numbers = list(numbers)

    def random(self):
        return self.numbers.pop(0)


def test_the_walk_follows_the_chances():
    tree = tree_of((1, 0, 2, 3, 2, 2))
    p = [P[0], *(P[word + 1] for word in tree.tokens)]
    (first, second), left = rounds(P[0], Q[0], (1, 0))
    assert (first, second) == (1, 1)  # 3/3, then what is left is all word 0
    third, _ = rounds(P[2], Q[2], (2, 3))
    assert verify_tree(p, tree, Scripted([0.5, third[0] - 1e-9, 0.99])) == [1, 2, 3]  # the leaf: a draw from P[3]
    assert verify_tree(p, tree, Scripted([0.5, 1.0, 1.0, 0.0])) == [1, 2], "both children rejected: what is left of P[2]"
    assert left.tolist() == [1, 0, 0, 0] and verify_tree(p, tree, Scripted([1.0, 1.0, 0.7])) == [0]


def test_more_siblings_are_kept_more_often_and_equal_ones_always():
    rates = [acceptance(P[0], Q[0], width) for width in range(5)]
    assert rates[0] == 0 and rates[1] == pytest.approx(9 / 12) and rates == sorted(rates) and rates[-1] <= 1
    assert acceptance(P[0], P[0], 1) == pytest.approx(1) and acceptance(P[0], P[0], 3) == pytest.approx(1)


def test_a_node_sees_what_a_chain_of_its_ancestors_sees():
    rng, past = np.random.default_rng(0), 3
    parents = [-1, 0, 0, 1, -1, 4, 2]
    n, d = len(parents), 8
    q, k, v = (rng.standard_normal((m, d)).astype(np.float32) for m in (n, past + n, past + n))
    found = masked_attention(q, k, v, tree_mask(parents, past))
    assert depths(parents).tolist() == [0, 1, 1, 2, 0, 1, 2]
    for node in range(n):
        path = [node]
        while parents[path[0]] >= 0:
            path.insert(0, parents[path[0]])
        assert all(parents[b] == a for a, b in pairwise(path)) and len(path) == depths(parents)[node] + 1
        seen = [*range(past), *(past + i for i in path)]
        np.testing.assert_allclose(found[node], attention_head(q[node][None], k[seen], v[seen])[0], rtol=1e-5, atol=1e-6)
