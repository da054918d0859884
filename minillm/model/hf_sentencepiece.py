"""SentencePiece's BPE as tokenizer.json says it, and as GGUF does: merges on the one side, scores on the other.

SentencePiece has no merges: two neighbours merge if together they are a token, the best score first (tokenizer/sentencepiece.py).
`tokenizers` knows merges only. So transformers derives them: every way to cut a token into two tokens is a merge, and merges
stand in the order of their tokens' scores. That way leads back, as it is their order alone that scores are for:

    score of a token = -(how many tokens have a merge before its first one)

It is only right where nothing else is in the list: a merge missing, or a token's merges apart from one another, would give other
tokens, and is refused. So are the stages around it, unless they are SentencePiece's: a space becomes ▁, one is put in front, a
character without a token becomes its bytes. Source: transformers, convert_slow_tokenizer.py (generate_merges, LlamaConverter).
"""

import re
from collections.abc import Sequence
from typing import Any

from minillm.errors import TokenizerError
from minillm.formats.expect import Fields, shown
from minillm.model.hf_pipeline import steps
from minillm.model.tokenizer.sentencepiece import SPACE
from minillm.model.tokenizer.vocabulary import BYTE, NORMAL, UNKNOWN, USER_DEFINED

BYTE_NAME = re.compile(r"<0x[0-9A-F]{2}>")
MOST_CUTS = 50_000_000  # squared lengths of tokens: each of their cuts is looked up
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
PREPEND = {"type": "Prepend", "prepend": SPACE}
BACK = [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


# --- from tokenizer.json ------------------------------------------------------------------------------------------------


def space_prefix(tokenizer: Fields) -> tuple[bool, str | None]:  # -> whether there is one; "always" or "first" of Metaspace
    """Recognize the stages that prepare a text: a normalizer, as at first, or the pre-tokenizer Metaspace."""
    stage = tokenizer.inner("normalizer", None)
    found = [step.values for step in steps(stage, "normalizers")] if stage else []
    metaspace = tokenizer.inner("pre_tokenizer", None)
    if metaspace is None and found in ([PREPEND, REPLACE], [REPLACE]):
        return len(found) == 2, None
    if metaspace is None or found:
        tokenizer.fail("normalizer", "SentencePiece's, which puts ▁ for spaces, or none beside Metaspace", shown(found))
    metaspace.one_of("type", ("Metaspace",))
    metaspace.one_of("replacement", (SPACE,))
    metaspace.one_of("split", (False,))  # words would be cut apart that a token could join
    usual = "always" if metaspace.flag("add_prefix_space", True) else "never"  # as older files say it
    scheme = metaspace.one_of("prepend_scheme", ("always", "first", "never"), usual)
    for key, value in metaspace.unread().items():
        metaspace.fail(key, "no such key", shown(value))
    return (False, None) if scheme == "never" else (True, scheme)


def token_types(tokenizer: Fields, model: Fields, ids: dict[str, int], types: list[int]) -> list[int]:
    """Tell bytes and the unknown token from others. TokenizerError for added tokens that are text: around them spaces differ."""
    texts = {i: text for text, i in ids.items()}
    found = [BYTE if kind == NORMAL and BYTE_NAME.fullmatch(texts[i]) else kind for i, kind in enumerate(types)]
    if (unknown := model.text("unk_token", None)) is not None:
        if unknown not in ids:
            model.fail("unk_token", "a token of the vocabulary", shown(unknown))
        found[ids[unknown]] = UNKNOWN
    if found.count(BYTE) < 256:
        model.one_of("fuse_unk", (True,))  # SentencePiece writes one for a run of unknown characters
    if USER_DEFINED in found:
        text = texts[found.index(USER_DEFINED)]
        tokenizer.fail("added_tokens", "special ones alone, beside SentencePiece's BPE", f"{shown(text)}, which is not")
    decoder = tokenizer.inner("decoder", None)
    for step in steps(decoder, "decoders") if decoder else []:
        step.one_of("type", ("Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"))
    return found


def scores_from_merges(model: Fields, merges: Sequence[str], ids: dict[str, int], types: list[int]) -> list[float]:
    """Find scores that merge in the same order. TokenizerError where there are none.

    merges: "left right". Those that make or take a token that is no text (<s>, <0x0A>) are left out: text must never become one.
    """
    plain = {text: i for text, i in ids.items() if types[i] == NORMAL}
    pairs = ((left, right) for left, _, right in (pair.partition(" ") for pair in merges))
    listed = [(left, right) for left, right in pairs if left in plain and right in plain and left + right in plain]
    order: dict[str, int] = {}
    last = ""
    for left, right in listed:
        text = left + right
        if text in order and text != last:
            model.fail("merges", f"those of {shown(text)} together, as scores have it", f"one after those of {shown(last)}")
        order.setdefault(text, len(order))
        last = text
    missing = set(cuts(plain)) - set(listed)
    if missing:
        halves = " and ".join(map(shown, min(missing)))
        model.fail("merges", "every cut of a token into two, as scores have it", f"none of {halves}")
    if strange := set("".join(plain)) - plain.keys():
        model.fail("vocab", "a token for each character of a token", f"none for {shown(min(strange))}")
    lowest = -float(len(order))
    scores = [0.0 if kind != NORMAL else lowest for kind in types]
    for text, place in order.items():
        scores[plain[text]] = -float(place)
    return scores


def cuts(plain: dict[str, Any]) -> list[tuple[str, str]]:  # {token: …} -> every way to cut one into two tokens
    """Cut each token everywhere; keep what is two tokens. TokenizerError where that would take too long."""
    if (squares := sum(len(text) ** 2 for text in plain)) > MOST_CUTS:
        longest = max(map(len, plain))
        counts = f"{squares:,}, the longest has {longest:,}"
        raise TokenizerError(f"tokens of SentencePiece: expected at most {MOST_CUTS:,} squared characters in all, found {counts}")
    found = ((text[:k], text[k:]) for text in plain for k in range(1, len(text)))
    return [(left, right) for left, right in found if left in plain and right in plain]


# --- to tokenizer.json --------------------------------------------------------------------------------------------------


def merges_from_scores(tokens: list[str], scores: list[float], types: list[int]) -> list[tuple[str, str]]:
    """Derive the merges as transformers does. TokenizerError where two tokens have one score: their order depends on the text."""
    best = {text: score for text, score, kind in zip(tokens, scores, types, strict=True) if kind == NORMAL}
    found = cuts(best)
    made = {left + right: best[left + right] for left, right in found}
    if len(set(made.values())) < len(made):
        first = {score: text for text, score in made.items()}
        twice = next(text for text, score in made.items() if first[score] != text)
        both = f"{shown(twice)} and {shown(first[made[twice]])}"
        raise TokenizerError(f"tokenizer.ggml.scores: expected a score of its own for each merged token, found one for {both}")
    return sorted(found, key=lambda pair: (best[pair[0] + pair[1]], len(pair[0])), reverse=True)


def stages(prefix: bool, scheme: str | None) -> dict[str, Any]:
    """Write the stages around the model. llama.cpp and SentencePiece's first port put a space behind control tokens too."""
    back = [*BACK, *([STRIP] if prefix else [])]
    if prefix and scheme:
        metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": False}
        return {"normalizer": None, "pre_tokenizer": metaspace, "decoder": {"type": "Sequence", "decoders": back}}
    front = [PREPEND, REPLACE] if prefix else [REPLACE]
    return {
        "normalizer": {"type": "Sequence", "normalizers": front},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": back},
    }
