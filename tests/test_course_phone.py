"""Lessons are read on phones, 390 pixels wide: what a page of that width cuts off, shrinks or hides is found here.

Of 390 pixels the margins leave 358 for text, and 326 for a drawing: 39 columns of a fixed font of 13.6 pixels, whose letters
are 0.6 as wide. A displayed formula has 11 pixels a symbol or so. (Measured in Chromium with the style of GitHub's pages.)
"""

import io
import re

import matplotlib.image
import numpy as np
import pytest
from lesson_help import LESSONS, ROOT, prose

from minillm import plots
from minillm.course.interview.cards import cards_folder, read_decks
from minillm.course.notebooks.contract import NotebookError
from minillm.course.notebooks.phone import same_picture, stacked

COLUMNS, SYMBOLS, CARD, TERMINAL = 39, 32, 46, 80
CELLS = 4  # of a row in a table
WIDEST = 720  # pixels of a picture, whose letters of 11 then have 5.5; of more panels than one, each stands in a row of its own
PARAGRAPH = 110  # words: some twenty lines of a phone
PAGES = [*LESSONS, ROOT / "lessons" / "glossary.md"]
each_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)


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


@each_lesson
def test_a_drawing_fits_a_phone(path):
    lengths = {f"{path.name}:{number}": len(line.rstrip()) for number, line in drawings(path.read_text())}
    wide = {place: length for place, length in lengths.items() if length > COLUMNS}
    assert not wide, f"at most {COLUMNS} columns, found {wide}"


@each_lesson
def test_a_displayed_formula_fits_a_phone(path):
    formulas = re.findall(r"\$\$(.+?)\$\$", path.read_text(), re.DOTALL)
    wide = {formula: width(formula) for formula in formulas if width(formula) > SYMBOLS}
    assert not wide, f"at most some {SYMBOLS} symbols in a line; break it in two: {wide}"


def wide_tables(text):  # Markdown -> [row] that a phone cuts off
    """Rows with many cells, and tables of whole sentences, which belong into a list."""
    rows = [row for row in text.splitlines() if row.startswith("|")]
    return [row for row in rows if row.count("|") > CELLS + 1 or len(re.sub(r"\]\([^)]*\)|[|*`$]", "", row)) > 130]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_table_fits_a_phone(path):
    assert wide_tables(path.read_text()) == []


@each_lesson
def test_letters_of_a_picture_can_be_read(path):
    for name in re.findall(r"\]\((pictures/\S+?)\)", path.read_text()):
        width = matplotlib.image.imread(path.parent / name).shape[1]
        assert width <= WIDEST, f"{name} has {width} pixels, at most {WIDEST}: two panels beside each other?"


def blocks(text):  # -> [(first words, number of words)] of paragraphs and items
    texts = re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )|</?details>|</summary>", prose(text).split("\n## Papers")[0])
    return [(" ".join(text.split()[:6]), len(text.split())) for text in texts]


@each_lesson
def test_a_paragraph_is_no_wall(path):
    long = {first: words for first, words in blocks(path.read_text()) if words > PARAGRAPH}
    assert not long, f"at most {PARAGRAPH} words, then a new paragraph: {long}"


def mistaken(text):  # -> [text] that Markdown takes for something else
    """A price whose dollar begins a formula; a sentence that begins with a number and a full stop, and so a list."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)
    plain = re.sub(r"\$\$.+?\$\$|(?<![\[\w])\$[^$\n]+\$", "", text, flags=re.S)
    lists = re.findall(r"(?:^|\n\n)(\d+\. [A-Z].{,40})(?![^\n]*\n *\d+\. )", text)
    return re.findall(r".{,20}\$.{,20}", plain) + [item for item in lists if not item.startswith("1. ")]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_no_price_is_a_formula_and_no_number_a_list(path):
    assert mistaken(path.read_text()) == []


def test_drawings_of_cards_fit_a_phone():
    """Answers in code (tag "coding") are as wide as a terminal: broken code is harder to read than code to be scrolled."""
    wide = [card.id for deck in read_decks(cards_folder()).values() for card in deck
            if any(len(line) > (TERMINAL if "coding" in card.tags else CARD)
                   for _, line in drawings(card.question + "\n" + card.answer))]  # fmt: skip
    assert not wide


def test_the_estimate_knows_wide_from_narrow():
    assert width(r"\frac{a + b}{c}") == 3 and width(r"\alpha\, l + \sum_j e^{x_j}") < 12
    long = r"m' = \max(m) \qquad \alpha = e^{m-m'} \qquad l' = \alpha\, l + \sum_j e^{x_j-m'} \qquad acc' = \alpha\, acc"
    assert width(long) > SYMBOLS
    assert drawings("a\n```\nwide\n```\n    code\n") == [(3, "wide"), (5, "code")]
    assert drawings("```python\nif a:\n    b\n```\n    drawn") == [(5, "drawn")]


def test_tables_walls_and_mistakes_are_found():
    assert wide_tables("| a | b | c | d |") == [] and wide_tables("| a | b | c | d | e |") and wide_tables(f"| {'word ' * 30} |")
    assert blocks("a b\nc\n\n- d\n- e f\n\n## Papers\n\ng h i j") == [("a b c", 3), ("- d", 2), ("- e f", 3)]
    assert mistaken("It costs [$3.83](a) without and [$0.56](b) with it, or $4.") and mistaken("$r = 0.1$ and $B$") == []
    assert mistaken("How many?\n\n16. All were seen.\n") and mistaken("Two:\n\n1. One.\n2. Other.\n") == []


@pytest.mark.parametrize("panels", [1, 2, 3])
def test_panels_stand_one_below_the_other_and_no_ink_is_lost(panels):
    figure, axes = plots.figure(panels)
    for i, each in enumerate(axes):
        plots.series(each, i, [1, 2, 3], [1, 2, 3 + i], f"series {i}")
        plots.label(each, f"Panel {i} has a title that is as long as titles are", "x (unit)", "y (unit)")
    plots.save(figure, file := io.BytesIO())
    before, after = (matplotlib.image.imread(io.BytesIO(png)) for png in (file.getvalue(), stacked(file.getvalue(), panels)))
    assert after.shape[0] == panels * before.shape[0] and after.shape[1] < before.shape[1] / panels * 1.1
    ink = [np.sort(picture[(picture < 1).any(axis=2)], axis=0) for picture in (before, after)]
    assert np.array_equal(*ink)
    assert np.array_equal(after[: len(before), :200], before[:, :200]), "the first panel is the uppermost"


def test_a_picture_without_a_gap_is_refused_and_pictures_are_compared_by_pixels():
    matplotlib.image.imsave(file := io.BytesIO(), np.zeros((8, 100, 4)), format="png")
    with pytest.raises(NotebookError, match="no 4 columns without ink between panels 1 and 2"):
        stacked(file.getvalue(), 2)
    matplotlib.image.imsave(other := io.BytesIO(), np.zeros((8, 100, 4)), format="png", metadata={"Comment": "packed otherwise"})
    assert file.getvalue() != other.getvalue() and same_picture(file.getvalue(), other.getvalue())
    matplotlib.image.imsave(grey := io.BytesIO(), np.full((8, 100, 4), 0.5), format="png")
    assert not same_picture(file.getvalue(), grey.getvalue()) and not same_picture(file.getvalue(), b"no picture")
