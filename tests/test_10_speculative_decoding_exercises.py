"""Exercises of lesson 10: the best γ, acceptance, a whole draft, prompt lookup. Those of the scheduler: …_exercises_scheduler.py.

What is drawn is counted, and compared with the law of the rule by chi-square. Each such test fails by chance once in 10⁶ runs.
"""

from collections import Counter

import mistakes_speculation as mistakes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.costs.speculation import best_gamma
from minillm.course.checks import answers, check_close, exercise, run_seed, seeds
from minillm.speculative.lookup import lookup
from minillm.speculative.verify import accept_or_replace, verify

FALSE_ALARM = 1e-6


def chance(*numbers):
    return np.random.default_rng([run_seed(), *numbers])


# --- 10.1 ---------------------------------------------------------------------------------------------------------------

SETTINGS = 12  # in a row, so that a mistake is known by what it does to all of them


def check_gammas(settings, most, told):
    right, wrong = [mistakes.best(*one, most) for one in settings], mistakes.best_mistakes(settings, most)
    with answers(f"the best γ of {told}", "A number of drafts is wanted, from 0 to `most`."):
        found = np.array([int(best_gamma(*one, most)) for one in settings])
    shown = ", ".join(f"({alpha:.2g}, {cost:.2g}, {extra:.2g})" for alpha, cost, extra in settings[:3])
    what = f"the row of best γ, at most {most}, of (α, cost, extra) = {shown} …, {told},"
    check_close(found, np.array(right), rtol=0, atol=0, what=what, mistakes=lambda: wrong)


@exercise("10.1", points=2, hint=(
    "γ drafts and the check of them take γ c + v. What do they yield, on average, if each is accepted with probability α?",
    "E(γ) = 1 + α + α² + … + α^γ, as the k-th draft counts only where all before it were kept. And v = 1 + γ extra.",
    "for gamma in range(most + 1): tokens += alpha**gamma, and the speed-up is speed_up(tokens, gamma, cost, 1 + gamma * extra).",
))  # fmt: skip
@settings(max_examples=30)
@given(most=st.integers(4, 12), seed=seeds)
def test_the_best_gamma_brings_the_most_tokens_in_the_time(most, seed):
    rng = chance(seed, 1)
    drawn = zip(rng.uniform(0.4, 0.98, SETTINGS), rng.uniform(0.01, 0.3, SETTINGS), rng.uniform(0, 0.1, SETTINGS), strict=True)
    check_gammas([tuple(map(float, one)) for one in drawn], most, "drafts of some cost")


@exercise("10.1", points=1, hint="The first draft adds α tokens and takes c + extra steps. Where α is less than that, γ is 0.")
@given(seed=seeds)
def test_where_no_draft_pays_there_is_none(seed):
    rng = chance(seed, 2)
    dear = [(float(alpha), float(alpha * rng.uniform(0.6, 0.9)), float(alpha * 0.45)) for alpha in rng.uniform(0.05, 0.6, 4)]
    cheap = [(float(alpha), float(alpha * 0.3), 0.0) for alpha in rng.uniform(0.3, 0.9, 4)]
    check_gammas([*dear, *cheap], 8, "the first four too dear, c + extra above α")


@exercise("10.1", points=1, hint="α = 1: every draft is kept, E is γ + 1. Does your formula divide by 1 - α? α = 0: none is.")
def test_drafts_that_are_always_right_and_drafts_that_never_are():
    check_gammas([(1.0, 0.1, 0.0), (1.0, 0.0, 0.2), (1.0, 0.5, 0.4), (1.0, 1.5, 0.0), (0.0, 0.0, 0.0), (0.0, 0.1, 0.0)], 6,
                 "the first four with α = 1, the last two with α = 0")  # fmt: skip


# --- 10.2 ---------------------------------------------------------------------------------------------------------------

TARGET, DRAFT = np.array([0.4, 0.3, 0.2, 0.1, 0.0]), np.array([0.1, 0.1, 0.3, 0.4, 0.1])  # the first two come too seldom
EACH = 700  # draws of each draft


def judged(p, q, token, rng):
    """One call, whose answer must be a token."""
    with answers(f"a draft of token {token}", "It is accepted, or another token is returned."):
        found = accept_or_replace(p.copy(), q.copy(), token, rng)
    told = f"p {p.round(2)}, q {q.round(2)}, a draft of token {token}: a token from 0 to {len(p) - 1} is wanted, found {found!r}"
    assert np.ndim(found) == 0 and not isinstance(found, bool) and found is not None and 0 <= int(found) < len(p), told
    return int(found)


def outcomes(p, q, seed):  # -> (n, n) counts: of each draft, what came out
    rng, counts = chance(seed, 3), np.zeros((len(p), len(p)), int)
    for token in np.flatnonzero(q):
        for _ in range(EACH):
            counts[token, judged(p, q, int(token), rng)] += 1
    return counts


def check_law(p, q, seed):
    right, wrong = mistakes.law(p, q), mistakes.law_mistakes(p, q)
    counts = outcomes(p, q, seed)
    if mistakes.compare(counts, right) < FALSE_ALARM:
        worst = int(abs(counts - EACH * right)[q > 0].sum(axis=1).argmax())
        token = int(np.flatnonzero(q)[worst])
        told = f"target p = {p.round(2)}, draft q = {q.round(2)}: of {EACH} drafts of token {token}"
        expected = (EACH * right[token]).round().astype(int)
        why = mistakes.named(counts[q > 0], {did: one[q > 0] for did, one in wrong.items()})
        pytest.fail(f"{told} there came the tokens 0 to {len(p) - 1} {counts[token]} times, expected {expected}{why}")


def shuffled(seed):
    order = chance(seed, 4).permutation(len(TARGET))
    return TARGET[order], DRAFT[order]


@exercise("10.2", points=3, hint=(
    "The draft says a token with probability q, the target with p. Which share of these drafts may stay, where q is the larger?",
    "Keep it with probability min(1, p / q): where rng.random() · q is below p. Else draw from what p has more than q.",
    "if rng.random() * q[token] < p[token]: return token; left = np.maximum(p - q, 0); draw(left / left.sum(), rng).",
))  # fmt: skip
@pytest.mark.parametrize("case", range(2))
def test_a_draft_stays_as_often_as_the_target_says_it(case):
    check_law(*shuffled(case), seed=case)


@exercise("10.2", points=1, hint="Over all drafts what comes out must be p, for any q: that is what lossless means.")
def test_what_comes_out_is_distributed_as_the_target():
    """The sum over drafts alone: a rule of another form passes, if it loses nothing."""
    p, q = shuffled(7)
    counts, rng = np.zeros((1, len(p)), int), chance(5)
    for token in rng.choice(len(q), 2500, p=q):
        counts[0, judged(p, q, int(token), rng)] += 1
    odds = mistakes.compare(counts, p[None])
    told = f"2,500 drafts from q = {q.round(2)} became {(counts[0] / 2500).round(3)}, and the target says p = {p.round(2)}"
    assert odds >= FALSE_ALARM, f"{told}: the text is no longer the target's"


@exercise("10.2", points=1, hint="A draft that was looked up has q = 1 at its token, a greedy target p = 1: the same rule.")
@pytest.mark.parametrize("case", range(3))
def test_a_draft_that_was_no_draw_and_a_target_that_is_greedy(case):
    rng = chance(case, 6)
    for draft in range(4):
        for choice in range(4):
            p, q = np.eye(4)[choice], np.eye(4)[draft]
            found = judged(p, q, draft, rng)
            told = f"the draft is certainly {draft} and the target says {choice}: {choice} is to come out, found {found}"
            assert found == choice, told
    p = np.array([0.5, 0.0, 0.2, 0.3])
    found = {judged(p, np.eye(4)[1], 1, rng) for _ in range(200)}
    assert 1 not in found and len(found) == 3, f"p = {p}, certain draft 1: the other three come out, found {sorted(found)}"


# --- 10.3 ---------------------------------------------------------------------------------------------------------------


def explained(found, wrong):  # [answer], [{words: answer}] -> words
    """The mistake that explains all answers, if one does."""
    return next((f": {did}" for did in wrong[0] if all(one[did] == it for one, it in zip(wrong, found, strict=True))), "")


def checked(p, q, proposed, rng):
    """One call, whose answer must be a list of tokens."""
    what = f"the check of {len(proposed)} drafts"
    with answers(what, "p has one distribution more than there are drafts."):
        found = verify([row.copy() for row in p], [row.copy() for row in q], list(proposed), rng)
    assert isinstance(found, list | tuple | np.ndarray), f"{what} returns a list of tokens, found {type(found).__name__}"
    return tuple(int(token) for token in found)


@exercise("10.3", points=2, hint=(
    "What does p[2] know of the text, and is it still that text, once draft 1 was rejected?",
    "Go through the drafts: accept_or_replace gives the token itself where it accepts. At the first that is another, return.",
    "if (found := accept_or_replace(p[i], q[i], token, rng)) != token: return [*proposed[:i], found]; at the end [*proposed, …].",
))  # fmt: skip
@pytest.mark.parametrize("gamma", [4, 1, 2, 6])
def test_greedy_drafts_stay_up_to_the_first_that_is_wrong(gamma):
    rng, cases = chance(gamma, 7), []
    for right in [*range(gamma + 1)] * 4:
        text = rng.integers(0, 9, gamma + 1).tolist()
        turned = [i == right or (i > right and rng.random() < 0.5) for i in range(gamma)]  # some behind it are right again
        proposed = [(token + int(rng.integers(1, 9))) % 9 if off else token for token, off in zip(text, turned, strict=False)]
        cases.append((text, proposed, right))
    found = [checked(np.eye(9)[text], np.eye(9)[proposed], proposed, rng) for text, proposed, _ in cases]
    expected = [tuple(text[: right + 1]) for text, _, right in cases]
    if found != expected:
        at = next(i for i, one in enumerate(found) if one != expected[i])
        (text, proposed, _), one, wanted = cases[at], found[at], expected[at]
        why = explained(found, [mistakes.greedy_mistakes(*case) for case in cases])
        pytest.fail(f"drafts {proposed}, the target says {text}: {list(wanted)} is wanted, found {list(one)}{why}")


@exercise("10.3", points=2, hint=(
    "At a temperature both sides draw. Which distribution judges draft i, and from which is the last token drawn?",
    "p[i] and q[i] belong to draft i; p[-1], after all drafts, is there already: the bonus token costs nothing.",
))  # fmt: skip
@pytest.mark.parametrize("case", range(2))
def test_texts_come_as_often_as_the_rule_says(case):
    """Three words and two drafts: 39 texts of one to three tokens, each with its probability."""
    draws, rng = 3000, chance(case, 8)
    p = np.array([[0.5, 0.3, 0.2], [0.1, 0.3, 0.6], [0.2, 0.7, 0.1]])[:, rng.permutation(3)]
    q = np.array([[0.3, 0.3, 0.4], [0.3, 0.2, 0.5]])[:, rng.permutation(3)]
    right, wrong = mistakes.texts(p, q), mistakes.text_mistakes(p, q)
    drafts = np.stack([rng.choice(3, draws, p=row) for row in q], axis=1).tolist()
    seen = Counter(checked(p, q, draft, rng) for draft in drafts)
    names = sorted({*seen, *right, *(text for one in wrong.values() for text in one)})
    counts = np.array([[seen[name] for name in names]])
    laws = {did: np.array([[one.get(name, 0.0) for name in names]]) for did, one in ({"": right} | wrong).items()}
    if mistakes.compare(counts, expected := laws.pop("")) < FALSE_ALARM:
        off = int((abs(counts - draws * expected) / np.sqrt(draws * expected + 1)).argmax())
        times = f"{counts[0, off]} times, expected about {draws * expected[0, off]:.0f}"
        told = f"of {draws:,} checks of two drafts {list(names[off])} came out {times}"
        pytest.fail(f"{told}{mistakes.named(counts, laws)}")


@exercise("10.3", points=1, hint="No drafts: a plain step. What is returned then, and from which p?")
def test_without_a_draft_it_is_a_plain_step():
    found = [checked([np.eye(5)[token]], [], [], chance(9)) for token in range(5)]
    told = f"no drafts, and a target that says 0, then 1 …: one token each, found {found}"
    assert found == [(0,), (1,), (2,), (3,), (4,)], told


# --- 10.4 ---------------------------------------------------------------------------------------------------------------


def check_lookup(most, longest, shortest, *texts):
    """Look in each text; a mistake is named that explains all answers."""
    expected, found = [mistakes.found_after(text, most, longest, shortest) for text in texts], []
    what = [f"after {text}, matches of {longest} to {shortest} tokens, at most {most} drafts" for text in texts]
    for text, told in zip(texts, what, strict=True):
        with answers(told, "Nothing is an empty list. Does a place lie outside of the text?"):
            found.append(list(lookup(list(text), most, longest, shortest)))
    if found != expected:
        at = next(i for i, one in enumerate(found) if one != expected[i])
        wrong = [mistakes.lookup_mistakes(text, most, longest, shortest) for text in texts]
        why = explained(found, wrong) if len(texts) > 9 else ""
        pytest.fail(f"{what[at]}: {expected[at]} is wanted, found {found[at]}{why}")


words = st.lists(st.integers(1, 3), min_size=1, max_size=14)


@exercise("10.4", points=2, hint=(
    "The last n tokens: where did they stand before, and what came then?",
    "Lengths from `longest` down to `shortest`; for each the places from the back. The first that agrees is the answer.",
    "if text[start : start + n] == text[len(text) - n :]: return text[start + n : start + n + most]. start < len(text) - n.",
))  # fmt: skip
@pytest.mark.parametrize("most", [3, 1, 6])
def test_what_followed_the_longest_match_is_the_draft(most):
    rng = chance(most, 10)
    check_lookup(most, 4, 2, *[rng.integers(1, 4, 12).tolist() for _ in range(60)])


@exercise("10.4", points=1, hint="The lengths are arguments: `longest` and `shortest` count both.")
@settings(max_examples=200)
@given(text=words, sizes=st.lists(st.integers(1, 5), min_size=2, max_size=2))
def test_matches_are_as_long_as_asked(text, sizes):
    check_lookup(3, max(sizes), min(sizes), text)


@exercise("10.4", points=1, hint="Is the end of the text a place of its own last tokens? And may a match reach into them?")
@pytest.mark.parametrize("text", [[1], [1, 1], [1, 2], [1, 1, 1], [1, 2, 1, 2, 1, 2], [5] * 9, [1, 2, 3, 1, 2], [], [3, 1, 3]])
def test_short_texts_and_loops(text):
    check_lookup(4, 4, 2, text)
    check_lookup(4, 3, 1, text)
