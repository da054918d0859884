"""Drafts do not change what is drawn: the distribution of an engine's text, exactly and by counting.

By counting: a model of 32 words whose logits depend on the last word. Each drawn token has a distribution p that the test
computes itself, from the text before it. Tokens are counted by their rank in p, expected counts are sums of p, and

    (counted - expected)ᵀ Σ⁺ (counted - expected),   Σ = Σ_t diag(p_t) - p_t p_tᵀ

is chi-square with as many degrees of freedom as Σ has ranks, since each draw is fair given those before it. A test fails by
chance once in 10⁶ runs. By rank, as drafts err in the same direction everywhere: they are too sure, or not sure enough; and by
word, since random numbers that are used twice prefer words of low numbers.
"""

from itertools import product

import numpy as np
import pytest
from chi_square import upper_tail
from engine_help import Spoiled, engine, small
from speculative_help import Drawing

from minillm import SamplingParams
from minillm.engine import answer
from minillm.layers import softmax
from minillm.model.sampling import draw
from minillm.speculative.proposer import Draft
from minillm.speculative.verify import accept_or_replace, verify

WORDS, FALSE_ALARM = 32, 1e-6
TABLE = 2 * np.random.default_rng(7).standard_normal((WORDS, WORDS))


class Model:
    """Logits by the last word; all that is no word cannot come."""

    def __init__(self, vocab=512):
        self.rows = np.full((vocab, vocab), -np.inf, np.float32)
        self.rows[:, :WORDS] = TABLE[np.arange(vocab) % WORDS]

    def after(self, segments, logits):
        for segment, found in zip(segments, logits, strict=True):
            found[:] = self.rows[np.asarray(segment.tokens)[len(segment.tokens) - len(found) :]]


def expected(params, text, prompt):
    """The distribution of the next word: bare definitions, in float64."""
    x = TABLE[text[-1] % WORDS].astype(np.float32).astype(np.float64)
    if params.repetition_penalty != 1:
        for word in set(text):
            if word < WORDS:
                x[word] = x[word] / params.repetition_penalty if x[word] > 0 else x[word] * params.repetition_penalty
    for word in text[prompt:]:
        x[word] -= params.frequency_penalty
    x = x / params.temperature
    if params.top_k:
        x[x < np.sort(x)[-params.top_k]] = -np.inf
    p = np.exp(x - x.max())
    p /= p.sum()
    if params.top_p < 1:
        order = np.argsort(-p, kind="stable")
        kept = order[np.concatenate([[0.0], np.cumsum(p[order])[:-1]]) < params.top_p]
        p[np.setdiff1d(np.arange(WORDS), kept)] = 0
    p[p < params.min_p * p.max()] = 0
    return p / p.sum()


def statistics(params, texts, prompt):  # -> (chi-square, degrees of freedom) by rank and by word, draws
    drawn = np.array([text[i] for text in texts for i in range(prompt, len(text))])
    p = np.array([expected(params, text[:i], prompt) for text in texts for i in range(prompt, len(text))])
    assert (p[np.arange(len(drawn)), drawn] > 0).all(), "a word that cannot come"
    order = np.argsort(-p, axis=1, kind="stable")
    ranks = np.argmax(order == drawn[:, None], axis=1)
    found = [chi_square(ranks, np.take_along_axis(p, order, axis=1)), chi_square(drawn, p)]
    return found, len(drawn)


def chi_square(drawn, p):  # (n,), (n, WORDS) -> chi-square, degrees of freedom
    gap = np.bincount(drawn, minlength=WORDS) - p.sum(axis=0)
    values, vectors = np.linalg.eigh(np.diag(p.sum(axis=0)) - p.T @ p)
    some = values > 5.0  # of words that are drawn now and then
    return float(((vectors.T @ gap)[some] ** 2 / values[some]).sum()), int(some.sum())


def texts_of(params, proposer, draws, gamma=4, length=50, together=50):
    made = engine(small(), proposer=proposer, gamma=gamma, num_blocks=1000, max_sequences=together, max_tokens_per_step=2000)
    made.executor.transformer = Spoiled(made.executor.transformer, after=Model().after)
    prompts, texts = [[40, 3], [50, 11], [60, 30]], []
    rounds = -(-draws // (length * together))
    for number in range(rounds):
        asked = [made.add(prompts[i % 3], params_of(params, length, seed=1000 * number + i)) for i in range(together)]
        found = {request: list(prompts[i % 3]) for i, request in enumerate(asked)}
        while made.has_work:
            for delta in made.step():
                assert delta.error is None, delta.error
                found[delta.request] += delta.token_ids
        texts += found.values()
    return texts, made


def params_of(params, length, seed):
    return SamplingParams(max_tokens=length, ignore_eos=True, seed=seed, **params)


KINDS = {
    "temperature": {"temperature": 1.3},
    "top-k": {"temperature": 1.0, "top_k": 6},
    "top-p": {"temperature": 1.5, "top_p": 0.8},
    "min-p": {"temperature": 1.0, "min_p": 0.1},
    "repetition": {"temperature": 1.0, "repetition_penalty": 1.4},
    "frequency": {"temperature": 1.0, "frequency_penalty": 0.2},
}
SURE = np.array([softmax(2.0 * row) for row in TABLE])  # a draft that is too sure
FLAT = np.array([softmax(0.3 * row) for row in TABLE])


def by_words(table):
    """By any token: those of the prompt are beyond the words."""
    wide = np.zeros((512, 512))
    wide[:, :WORDS] = table[np.arange(512) % WORDS]
    return wide


class Certain(Drawing):
    """The likeliest word each time: a draft that was no draw."""

    def propose(self, texts, most):
        drafts = []
        for text, n in zip(texts, most, strict=True):
            word, found = text.tokens[-1], []
            for _ in range(n):
                word = int(self.table[word].argmax())
                found.append(word)
            drafts.append(Draft(found))
        return drafts


def p_value(params, texts):
    found, draws = statistics(params_of(params, 1, 0), list(texts), 2)
    return min(2 * upper_tail(*one) for one in found), draws


@pytest.mark.parametrize("draws", [20_000 // len(KINDS) + 1, pytest.param(200_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_drawn_with_drafts_is_distributed_as_without(kind, draws):
    proposers = {"sure": Drawing(by_words(SURE), 1), "flat": Drawing(by_words(FLAT), 2), "certain": Certain(by_words(SURE), 3)}
    name = list(proposers)[list(KINDS).index(kind) % 3]
    for which in [name] if draws < 200_000 else proposers:
        texts, made = texts_of(KINDS[kind], proposers[which], draws)
        assert sum(e.kind == "step" for e in made.log.events) < 0.9 * len(texts), "50 texts of 50 tokens: drafts were kept"
        p, counted = p_value(KINDS[kind], texts)
        assert counted >= draws and p > FALSE_ALARM, f"{kind}, {which}: p = {p:.1e} over {counted:,} draws"


def test_the_test_is_fair_to_text_without_drafts():
    p, _ = p_value(KINDS["temperature"], texts_of(KINDS["temperature"], None, 5000)[0])
    assert p > FALSE_ALARM


def residual_not_taken(p, q, token, rng):  # draws from p after a rejection
    return token if rng.random() * q[token] < p[token] else draw(p, rng)


def upside_down(p, q, token, rng):
    left = np.maximum(p - q, 0)
    return token if rng.random() * p[token] < q[token] or not left.sum() else draw(left / left.sum(), rng)


def always(p, q, token, rng):
    return token if p[token] > 0 else draw(p, rng)


@pytest.mark.parametrize("rule", [residual_not_taken, upside_down, always])
def test_a_biased_rule_is_caught(rule, monkeypatch):
    monkeypatch.setattr(answer, "accept_or_replace", rule)
    p, _ = p_value(KINDS["temperature"], texts_of(KINDS["temperature"], Drawing(by_words(SURE), 1), 5000)[0])
    assert p < 1e-9


def test_a_draft_that_shares_the_random_numbers_of_its_answer_is_caught(monkeypatch):
    """The trap of seeds: where draft and verification draw the same uniform numbers, an accepted token is no fair draw."""
    shared = Drawing(by_words(SURE), 0)

    def propose(texts, most):
        drafts = []
        for text, n in zip(texts, most, strict=True):
            shared.rng = np.random.default_rng()
            shared.rng.bit_generator.state = made.executor.answers[text.key.request][0].rng.bit_generator.state
            drafts += Drawing.propose(shared, [text], [n])
        return drafts

    copy = type("Copy", (), {"propose": staticmethod(propose), "forget": staticmethod(lambda key: None)})
    made = engine(small(), proposer=copy, gamma=1, num_blocks=4000, max_sequences=200, max_tokens_per_step=2000)
    made.executor.transformer = Spoiled(made.executor.transformer, after=Model().after)
    texts = {made.add([40, 3], params_of(KINDS["temperature"], 60, i)): [40, 3] for i in range(200)}
    while made.has_work:
        for delta in made.step():
            texts[delta.request] += delta.token_ids
    assert p_value(KINDS["temperature"], texts.values())[0] < 1e-9


# --- exactly --------------------------------------------------------------------------------------------------------------------

TWELFTHS = 12
P = np.array([[6, 3, 2, 1], [4, 4, 2, 2], [6, 3, 2, 1]]) / TWELFTHS
Q = np.array([[3, 3, 3, 3], [2, 2, 4, 4]]) / TWELFTHS


class Scripted:
    """Random numbers that were chosen: the middles of twelfths, and how many of them were used."""

    def __init__(self, twelfths):
        self.numbers, self.used = [(t + 0.5) / TWELFTHS for t in twelfths], 0

    def random(self):
        self.used += 1
        return self.numbers[self.used - 1]


def test_exact_enumeration_for_four_words_and_two_drafts():
    """All drafts, all random numbers: every threshold is a multiple of a twelfth, so that middles of twelfths say it all."""
    chance = {}
    for drafts in product(range(4), repeat=2):
        for twelfths in product(range(TWELFTHS), repeat=3):
            text = tuple(verify(P, Q, drafts, Scripted(twelfths)))
            weight = Q[0][drafts[0]] * Q[1][drafts[1]] / TWELFTHS**3
            chance[text] = chance.get(text, 0) + weight
    for text, found in chance.items():
        then = sum(weight for other, weight in chance.items() if other[: len(text)] == text)
        assert found <= then + 1e-12
    first, second, third = np.zeros(4), np.zeros((4, 4)), np.zeros((4, 4, 4))
    ends = np.zeros(4)  # of texts that went on after one token
    for text, weight in chance.items():
        first[text[0]] += weight
        if len(text) > 1:
            second[text[0], text[1]] += weight
        else:
            ends[text[0]] += weight
        if len(text) > 2:
            third[text] += weight
    np.testing.assert_allclose(first, P[0], atol=1e-12)
    went_on = second.sum(axis=1)
    np.testing.assert_allclose(went_on + ends, P[0], atol=1e-12)
    np.testing.assert_allclose(second, went_on[:, None] * P[1], atol=1e-12)
    both = third.sum(axis=2)
    np.testing.assert_allclose(third, both[:, :, None] * P[2], atol=1e-12)
    np.testing.assert_allclose(went_on.sum(), np.minimum(P[0], Q[0]).sum(), atol=1e-12), "α = 1 - TV(p, q)"


@pytest.mark.parametrize("q", [None, 0, 1])
def test_each_replacement_leaves_p(q):
    p, found = P[0], np.zeros(4)
    given = np.full(4, 0.25) if q is None else Q[q]
    for token, first, second in product(range(4), range(144), range(144)):
        rng = Scripted((0, 0))
        rng.numbers = [(first + 0.5) / 144, (second + 0.5) / 144]
        found[accept_or_replace(p, given, token, rng)] += given[token] / 144**2
    np.testing.assert_allclose(found, p, atol=0.01)


def test_expected_tokens_are_those_of_the_formula():
    """Monte Carlo of Leviathan's formula: CLAIMS' 1.248, 3.36 and 5.70 tokens a look, within 1%."""
    from minillm.costs.speculation import expected_tokens

    rng = np.random.default_rng(0)
    for alpha, gamma, published in ((0.2, 3, 1.248), (0.8, 4, 3.36), (0.9, 7, 5.70)):
        p, q = np.array([alpha, 1 - alpha]), np.array([1.0, 0.0])  # α = 1 - TV
        looks = [len(verify([p] * (gamma + 1), [q] * gamma, [0] * gamma, rng)) for _ in range(40_000)]
        assert np.mean(looks) == pytest.approx(expected_tokens(alpha, gamma), rel=0.01) == pytest.approx(published, rel=0.01)
