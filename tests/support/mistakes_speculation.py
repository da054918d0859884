"""What comes out of a best γ, of acceptance, of a whole draft, of a lookup after a typical mistake: see mistakes.py.

Acceptance is chance, so what a rule does is a law: for each draft the distribution of what comes out. Right laws stand here too,
written down from the formula, apart from the code under test.
"""

from itertools import product

import numpy as np
from chi_square import upper_tail

# --- 10.1 ---------------------------------------------------------------------------------------------------------------


def tokens_of(alpha, gamma):
    """Expected tokens, over where the check stops: after i drafts with α^i (1 - α), or after all."""
    return sum((i + 1) * alpha**i * (1 - alpha) for i in range(gamma)) + (gamma + 1) * alpha**gamma


def best(alpha, cost, extra, most, tokens=tokens_of, time=None, first=0):  # -> drafts
    time = time or (lambda gamma: gamma * cost + 1 + gamma * extra)
    return max(range(first, most + 1), key=lambda gamma: (round(tokens(alpha, gamma) / (time(gamma) or 1e-9), 12), -gamma))


def best_mistakes(settings, most):  # [(α, c, extra)] -> {words: [drafts]}
    def of(**changed):
        def one(alpha, cost, extra):
            times = {key: (lambda g, f=f: f(g, cost, extra)) for key, f in changed.items() if key == "time"}
            return best(alpha, cost, extra, most, **changed | times)

        return np.array([one(*setting) for setting in settings])

    return {
        "a draft costs nothing: the time of a check is γ c + v": of(time=lambda g, c, e: 1 + g * e),
        "a check costs one step, however many drafts it has: v = 1 + γ extra": of(time=lambda g, c, e: g * c + 1),
        "`extra` is added once: each draft more adds it": of(time=lambda g, c, e: g * c + 1 + (e if g else 0)),
        "the check itself is left out of the time: γ c + v": of(time=lambda g, c, e: g * (c + e)),
        "the time of one draft too many is charged": of(time=lambda g, c, e: (g + 1) * c + 1 + g * e),
        "the token that follows the drafts is not counted": of(tokens=lambda a, g: tokens_of(a, g) - 1),
        "each draft counts as α tokens, whatever became of those before it: the γ-th counts α^γ": of(
            tokens=lambda a, g: 1 + g * a),
        "only checks in which all drafts are kept count": of(tokens=lambda a, g: (g + 1) * a**g),
        "the drafts go on without end: 1 / (1 - α)": of(tokens=lambda a, g: 1 / (1 - a) if a < 1 else 1e9),
        "γ begins at 1: where no draft pays, it is 0": of(first=1),
        "the number of tokens is maximized, not tokens by time": of(time=lambda g, c, e: 1),
    }  # fmt: skip


# --- 10.2 and 10.3: laws -----------------------------------------------------------------------------------------------


def normalized(x):
    x = np.maximum(x, 0)
    return x / x.sum() if x.sum() > 0 else np.full(len(x), 1 / len(x))


def law(p, q, chance=None, left=None):  # (n,), (n,) -> (n, n): of each draft, the distribution of what comes out
    """Keep a draft with `chance`, by default min(1, p / q); else draw from `left`, by default what p has more than q."""
    with np.errstate(divide="ignore", invalid="ignore"):
        chance = np.nan_to_num(np.minimum(1, p / q)) if chance is None else chance
    left = normalized(p - q) if left is None else left
    return np.diag(chance) + (1 - chance)[:, None] * left


def one_number(p, q):
    """One random number decides of a draft, and of what comes in its place."""
    ends, a = np.cumsum(normalized(p - q)), np.minimum(1, p / q)
    rows = []
    for chance in a:
        room = np.diff(np.maximum(ends, chance), prepend=chance)
        rows.append(room)
    return np.diag(a) + np.array(rows)


def law_mistakes(p, q):  # -> {words: (n, n)}
    both = [normalized(x**2) for x in (p, q)]
    with np.errstate(divide="ignore"):
        turned = np.minimum(1, q / np.maximum(p, 1e-12))
    clipped = np.maximum(p - q, 0)
    clipped[-1] += 1 - clipped.sum()
    return {
        "p and q are exchanged in the quotient: the chance is p / q, at most 1": law(p, q, chance=turned),
        "all is exchanged, p for q and q for p": law(q, p, left=normalized(q - p)),
        "a rejected draft is replaced by a draw from p: what q brings already is then there twice": law(p, q, left=p),
        "the residual is q - p: what the draft says too seldom is missing, p - q": law(p, q, left=normalized(q - p)),
        "the residual is |p - q|: only what p has more than q": law(p, q, left=normalized(abs(p - q))),
        "the residual was not divided by its sum: its missing part falls to the last token": law(p, q, left=clipped),
        "every draft is accepted that the target could say": law(p, q, chance=(p > 0).astype(float)),
        "a draft is accepted where p ≥ q, and never else: below that it is a matter of chance": law(
            p, q, chance=(p >= q).astype(float)),
        "a draft is accepted with probability p(x), and not p(x) / q(x)": law(p, q, chance=p),
        "only the likeliest token is accepted: that is right for a greedy request alone": law(
            p, q, chance=(np.arange(len(p)) == p.argmax()).astype(float)),
        "a rejected draft is replaced by the likeliest token of the residual: it is a draw": law(
            p, q, left=np.eye(len(p))[(p - q).argmax()]),
        "the same random number rejects and replaces: each needs its own": one_number(p, q),
        "q is taken at a lower temperature than the draft was drawn at": law(p, both[1]),
        "p is taken at a lower temperature than the request asks for": law(both[0], q),
    }  # fmt: skip


def compare(counts, expected):  # two (rows, cells), of which the second are probabilities -> chance of as much by accident
    """Chi-square over cells that expect 5 or more; one that cannot be, and is there, is no accident."""
    total = counts.sum(axis=1, keepdims=True)
    wanted = expected * total
    if (counts[wanted < 1e-9] > 0).any():
        return 0.0
    some = wanted >= 5
    value = ((counts - wanted)[some] ** 2 / wanted[some]).sum()
    freedom = int(some.sum()) - int(((wanted < 1e-9) | some).all(axis=1).sum())
    return upper_tail(float(value), max(freedom, 1))


def named(counts, mistakes):  # -> words
    """The mistake whose law explains what came out, if there is one."""
    likely = {did: compare(counts, expected) for did, expected in mistakes.items() if expected.shape == counts.shape}
    did = max(likely, key=likely.get)
    return f": that is what comes out when {did}" if likely[did] > 1e-3 else ""


def likely_law(p):  # (n,) -> (n, n)
    return np.tile(np.eye(len(p))[p.argmax()], (len(p), 1))


def kept(a, b, x, y, z):
    """Drafts a, b; x in the place of a, y in that of b, and z behind both. -> the text"""
    return (x,) if x != a else (a, y) if y != b else (a, b, z)


def texts(p, q, assemble=kept, bonus=None, first=None, second=None):  # (3, n), (2, n) -> {text: probability}
    bonus = p[2] if bonus is None else bonus
    first, second = law(p[0], q[0]) if first is None else first, law(p[1], q[1]) if second is None else second
    words, found = range(len(bonus)), {}
    for a, b, x, y, z in product(words, repeat=5):
        if chance := q[0][a] * q[1][b] * first[a, x] * second[b, y] * bonus[z]:
            text = assemble(a, b, x, y, z)
            found[text] = found.get(text, 0) + chance
    return found


def text_mistakes(p, q):  # -> {words: {text: probability}}
    likeliest = np.eye(len(p[2]))[p[2].argmax()]
    return {
        "the token that follows a draft kept whole is left out: the target has computed its distribution too, p[-1]": texts(
            p, q, lambda a, b, x, y, z: kept(a, b, x, y, z)[:2]),
        "it goes on after a rejection: what follows was said after another text": texts(p, q, lambda a, b, x, y, z: (x, y, z)),
        "after a rejection one more token is drawn: the replacement is that token": texts(
            p, q, lambda a, b, x, y, z: t if len(t := kept(a, b, x, y, z)) == 3 else (*t, z)),
        "the replacement of a rejected draft is left out": texts(
            p, q, lambda a, b, x, y, z: t if len(t := kept(a, b, x, y, z)) == 3 else t[:-1]),
        "the rejected draft stays in the text, before its replacement": texts(
            p, q, lambda a, b, x, y, z: (a, x) if x != a else (a, b, y) if y != b else (a, b, z)),
        "a draft is kept whole or not at all": texts(p, q, lambda a, b, x, y, z: (a, b, z) if (x, y) == (a, b) else (x,)),
        "the token behind the drafts is drawn from the last draft's p: that was before it": texts(p, q, bonus=p[1]),
        "the token behind the drafts is drawn from q: it is the target's": texts(p, q, bonus=q[1]),
        "the token behind the drafts is the likeliest: it is a draw": texts(p, q, bonus=likeliest),
        "only the target's first choice is kept, or put in place: that is right for a greedy request alone": texts(
            p, q, first=likely_law(p[0]), second=likely_law(p[1])),
        "p is taken one place too late": texts(p, q, first=law(p[1], q[0]), second=law(p[2], q[1])),
        "p of the first place is taken for all": texts(p, q, second=law(p[0], q[1])),
        "q of the first place is taken for all": texts(p, q, second=law(p[1], q[0])),
    }  # fmt: skip


def greedy_mistakes(text, proposed, right):  # -> {words: tokens}
    """Of a greedy target, which says `text`; so many drafts are right."""
    kept_, whole = tuple(text[: right + 1]), right == len(proposed)
    return {
        "the token that follows a draft kept whole is left out": kept_[:-1] if whole else kept_,
        "the replacement of a rejected draft is left out": kept_ if whole else kept_[:-1],
        "the rejected draft stays, before its replacement": kept_ if whole else (*proposed[: right + 1], text[right]),
        "it goes on after a rejection: what follows was said after another text": tuple(text),
        "after a rejection one more token is drawn: the replacement is that token": kept_ if whole else (*kept_, text[-1]),
        "a rejected draft is kept, and its replacement left out": kept_ if whole else tuple(proposed[: right + 1]),
        "a draft is kept whole or not at all": kept_ if whole else tuple(text[:1]),
        "all drafts are kept": (*proposed, text[-1]),
        "the token behind the drafts is drawn where the last draft stands: the target's p[-1] is one place further": (
            (*proposed, text[-2]) if whole else kept_),
        "p is taken one place too late": by_place(text, proposed, lambda i: i + 1),
        "p of the first place is taken for all": by_place(text, proposed, lambda i: 0),
    }  # fmt: skip


def by_place(text, proposed, place):
    for i, token in enumerate(proposed):
        if token != text[place(i)]:
            return (*proposed[:i], text[place(i)])
    return (*proposed, text[-1])


# --- 10.4 ---------------------------------------------------------------------------------------------------------------


def found_after(text, most, longest, shortest, better=lambda n, end: (n, end), ends=None, skip=0):  # -> [tokens]
    """Of all places that something follows: by how many tokens do they agree with the end? The best of them is copied."""
    places = []
    for end in ends(len(text)) if ends else range(1, len(text)):
        n = next((n for n in range(min(longest, end), shortest - 1, -1) if text[end - n : end] == text[len(text) - n :]), 0)
        places += [(better(n, end), n, end)] if n else []
    if not places:
        return []
    _, n, end = max(places)
    start = end - (n if skip == "match" else -skip)
    return text[start : start + most]


def lookup_mistakes(text, most, longest, shortest):  # -> {words: [tokens]}
    given = text, most, longest, shortest
    whole = found_after(text, len(text), longest, shortest)
    apart = next((end for n in range(longest, shortest - 1, -1) for end in range(len(text) - n, n - 1, -1)
                  if text[end - n : end] == text[len(text) - n :]), None)  # fmt: skip
    return {
        "the earliest match is taken: of several of a length the latest counts": found_after(
            *given, better=lambda n, end: (n, -end)),
        "the latest match is taken, however short: the longest counts": found_after(*given, better=lambda n, end: (end, n)),
        "the shortest match is taken: the longest counts": found_after(*given, better=lambda n, end: (-n, end)),
        "the match itself is returned: what followed it is the draft": found_after(*given, skip="match"),
        "the first token after the match is skipped": found_after(*given, skip=1),
        "it begins one token too early, with the last of the match": found_after(*given, skip=-1),
        "the last tokens were found in their own place: nothing follows there": [],
        "all that follows is returned: at most so many tokens are wanted": whole,
        "only matches of the longest length are looked for": found_after(text, most, longest, longest),
        "matches of one token too few count": found_after(text, most, longest, shortest - 1) if shortest > 1 else None,
        "matches of one token too many are looked for": found_after(text, most, longest + 1, shortest),
        "the shortest length is left out": found_after(text, most, longest, shortest + 1),
        "a match may not touch the last tokens: only the last place itself is none": [] if apart is None else text[apart:][:most],
        "one token too few is returned": found_after(text, most - 1, longest, shortest),
        "a match at the very beginning of the text is left out": found_after(text[1:], most, longest, shortest),
        "the latest place is left out": found_after(*given, ends=lambda n: range(1, n - 1)),
    }  # fmt: skip


# --- 10.6 ---------------------------------------------------------------------------------------------------------------


def drafts_taken(sequences, free, watermark, left, size, **forgotten):
    """How many drafts each takes, in order. sequences: [(tokens in its table, drafts, room)]; free: blocks of the pool."""
    keep, found = 0 if forgotten.get("reserve") else watermark, []
    for length, drafts, room in sequences:
        n = min([drafts, room if forgotten.get("last") else room - 1, *([] if forgotten.get("budget") else [left])])
        n = max(0, n)

        def need(n, length=length):
            return -(-(length + n) // size) - -(-length // size)

        while not forgotten.get("blocks") and n and need(n) > free - keep:
            n = 0 if forgotten.get("whole") else n - 1
        found.append(n)
        free -= need(n)
        left -= 0 if forgotten.get("spent") else n
    return found


def taken_mistakes(sequences, free, watermark, left, size):  # -> {words: [drafts]}
    given = sequences, free, watermark, left, size
    right, first = drafts_taken(*given), next((i for i, n in enumerate(drafts_taken(*given)) if n), len(sequences))
    return {
        "none are noted: share.drafts is how many of its tokens are guesses": [0] * len(sequences),
        "the tokens that are left of the step are not asked for (self.left)": drafts_taken(*given, budget=True),
        "what one share took is still left for the next (self.left)": drafts_taken(*given, spent=True),
        "the pool's blocks are not asked for": drafts_taken(*given, blocks=True),
        "the watermark is taken too: it is kept for tokens that are certain": drafts_taken(*given, reserve=True),
        "drafts go up to max_tokens: one token more follows them": drafts_taken(*given, last=True),
        "all drafts are given up where the blocks do not suffice for all: fewer may fit": drafts_taken(*given, whole=True),
        "only the first gets drafts": [n if i <= first else 0 for i, n in enumerate(right)],
        "the last get theirs first: the shares come in order": drafts_taken(sequences[::-1], *given[1:])[::-1],
        "each gets the same part of what is left": drafts_taken(
            [(a, min(b, left // len(sequences)), c) for a, b, c in sequences], *given[1:]),
        "each gets one at most": drafts_taken([(a, min(b, 1), c) for a, b, c in sequences], *given[1:]),
    }  # fmt: skip
