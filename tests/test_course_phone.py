"""Lessons are read on phones: drawings and formulas of a line fit into 390 pixels, some 46 columns of a fixed font."""

import re
from pathlib import Path

import pytest

from minillm.course.interview.cards import cards_folder, read_decks

LESSONS = sorted((Path(__file__).parents[1] / "lessons").glob("[0-9][0-9]_*.md"))
COLUMNS, TERMINAL = 46, 80


def drawings(text):  # Markdown -> [(line's number, line)] of what is set in a font of one width
    """Lines between fences, and lines indented by four. Code, whose fence names a language, is left out: it can be scrolled."""
    fenced, code, found = False, False, []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            fenced = not fenced
            code = fenced and bool(line.strip("` "))
        elif not code and (fenced or line.startswith("    ")):
            found.append((number, line if fenced else line[4:]))
    return found


def width(formula):  # TeX -> columns, about: one for each letter, sign and named symbol; of a fraction the wider half
    """An estimate from above: what stands over or under something else counts too, but for fractions."""
    formula = re.sub(r"\\(?:text|mathrm|operatorname)\{([^}]*)\}", lambda m: "x" * len(m[1]), formula)
    formula = re.sub(r"\\(?:left|right|[,;!])", "", formula)
    formula = re.sub(r"\\(?:qquad|quad)", "    ", formula)
    half = r"\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}"
    formula = re.sub(rf"\\frac{half}{half}", lambda m: max(m[1], m[2], key=len), formula)
    return len(re.sub(r"[{}_^\s]", "", re.sub(r"\\[A-Za-z]+", "x", formula.replace("    ", "xxxx"))))


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_drawing_fits_a_phone(path):
    lengths = {f"{path.name}:{number}": len(line.rstrip()) for number, line in drawings(path.read_text())}
    wide = {place: length for place, length in lengths.items() if length > COLUMNS}
    assert not wide, f"at most {COLUMNS} columns, found {wide}"


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_displayed_formula_fits_a_phone(path):
    formulas = re.findall(r"\$\$(.+?)\$\$", path.read_text(), re.DOTALL)
    wide = {formula: width(formula) for formula in formulas if width(formula) > COLUMNS}
    assert not wide, f"at most some {COLUMNS} symbols in a line; break it in two: {wide}"


def test_drawings_of_cards_fit_a_phone():
    """Answers in code (tag "coding") are as wide as a terminal: broken code is harder to read than code to be scrolled."""
    wide = [card.id for deck in read_decks(cards_folder()).values() for card in deck
            if any(len(line) > (TERMINAL if "coding" in card.tags else COLUMNS)
                   for _, line in drawings(card.question + "\n" + card.answer))]  # fmt: skip
    assert not wide


def test_the_estimate_knows_wide_from_narrow():
    assert width(r"\frac{a + b}{c}") == 3 and width(r"\alpha\, l + \sum_j e^{x_j}") < 12
    long = r"m' = \max(m) \qquad \alpha = e^{m-m'} \qquad l' = \alpha\, l + \sum_j e^{x_j-m'} \qquad acc' = \alpha\, acc"
    assert width(long) > COLUMNS
    assert drawings("a\n```\nwide\n```\n    code\n") == [(3, "wide"), (5, "code")]
    assert drawings("```python\nif a:\n    b\n```\n    drawn") == [(5, "drawn")]
