"""The mould of a lesson, held by machinery: pictures, figures, links, terms, form. And each rule is seen to bite."""

import json
import re
import shutil

import pytest
from lesson_help import (
    LESSONS,
    ROOT,
    anchors,
    answers,
    early_terms,
    glossary,
    prose,
    wrong_figures,
    wrong_form,
    wrong_links,
    wrong_pictures,
)

from minillm.course.exercises.index import Course
from minillm.course.notebooks.contract import NotebookError
from minillm.course.notebooks.figures import KIND, figures, with_figures

GLOSSARY = (ROOT / "lessons" / "glossary.md").read_text(encoding="utf-8")
TERMS = glossary(GLOSSARY)
PAGES = [*LESSONS, *(ROOT / "lessons").glob("[a-z]*.md"), ROOT / "README.md", *(ROOT / "data").glob("*/README.md")]
by_name = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)


@by_name
def test_a_lesson_has_what_the_mould_asks_for(path):
    assert wrong_form(path.read_text(encoding="utf-8")) == []


@by_name
def test_a_lesson_shows_pictures_of_its_notebook(path):
    assert wrong_pictures(path) == []


@by_name
def test_the_figures_of_a_lesson_are_those_that_its_notebook_measured(path):
    assert wrong_figures(path) == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_links_lead_somewhere(path):
    assert wrong_links(path) == []


@by_name
def test_a_term_is_explained_before_it_is_used(path):
    assert early_terms(path.read_text(encoding="utf-8"), path.stem[:2], TERMS) == []


def test_the_glossary_is_in_order_and_names_what_is_there():
    assert len(TERMS) >= 60 and list(TERMS) == sorted(TERMS, key=str.lower)
    numbers = {path.stem[:2]: path for path in LESSONS}
    for term, (lesson, module) in TERMS.items():
        if lesson in numbers:  # else a lesson to come
            used = re.search(re.escape(term), numbers[lesson].read_text(encoding="utf-8"), re.I)
            assert used, f"lesson {lesson} is said to explain {term!r}, and does not name it"
        for file in re.findall(r"`([^`]+\.py)`", module):
            assert (ROOT / "minillm" / file).is_file(), f"{term}: minillm/{file} is not there"
    assert len(anchors(GLOSSARY)) >= len(TERMS)


def kinds_of_exercises(page):  # instructors.md -> {lesson: [cells]}
    body = page.split("## Which exercise practises what")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines() if re.match(r"\| \d\d \|", line)]
    return {number: cells for number, *cells in rows}


def test_each_lesson_has_a_calculation_an_algorithm_an_improvement_and_an_explanation():
    """The explanation itself, with its rubric: wrong_form."""
    exercises, kinds = Course().exercises, kinds_of_exercises((ROOT / "lessons" / "instructors.md").read_text(encoding="utf-8"))
    assert list(kinds) == sorted({id[:2] for id in exercises} & {path.stem[:2] for path in LESSONS})
    for number, (calculation, algorithm, improvement, counted, explanation) in kinds.items():
        for kind in (calculation, algorithm, improvement):
            named = re.findall(r"\d\d\.\d+", kind)
            assert named and all(id[:2] == number and id in exercises for id in named), f"lesson {number}: {kind!r}"
        assert counted and explanation, f"lesson {number}: in what is the improvement counted, and what is explained?"


def test_an_exercise_stands_in_the_list_of_its_lesson_with_minutes_and_what_it_needs():
    """And the list names no other."""
    listed = {}
    for path in LESSONS:
        text = path.read_text(encoding="utf-8")
        lines = re.findall(r"^- \*\*(\d\d\.\d+)\*\* (.+) \*(\d+) minutes; needs (.+)\.\*$", text, re.M)
        listed |= {id: (path.stem, words, int(minutes), needs) for id, words, minutes, needs in lines}
    exercises = {id: one for id, one in Course().exercises.items() if one.lesson in {path.stem for path in LESSONS}}
    assert sorted(listed) == sorted(exercises)
    for id, (lesson, words, minutes, needs) in listed.items():
        assert exercises[id].lesson == lesson and words and 5 <= minutes <= 60 and needs, id


def test_no_picture_is_left_that_no_notebook_draws():
    kept = {path.name for path in (ROOT / "lessons/pictures").glob("*.png")}
    from lesson_help import notebook

    from minillm.course.notebooks.contract import pictures

    drawn = {f"{path.stem[:2]}_{i}.png" for path in LESSONS for i in range(1, len(pictures(notebook(path.stem))) + 1)}
    assert kept == drawn


# --- each rule bites ------------------------------------------------------------------------------------------------------

ASKED = "\n\n".join(f"**Question {i}?** " + "word " * 120 for i in range(4))
LESSON = f"""# 91 · A lesson

{"word " * 1400}

## Why

## The picture

![The time to the first token grows with the prompt, with and without.](pictures/91_1.png)
![A batch of eight gives more tokens a second than one alone.](pictures/91_2.png)

## The mathematics

It is [35](../notebooks/91_lesson.ipynb "figure: saved") times less. See [Why](#why) and [the other](92_other.md).

## A walk through the code

## When it hurts

{"<details><summary>What?</summary>That.</details>" * 3}

## Exercises

**In your own words**: why? **Rubric**: because.

## Interview questions

{ASKED}

## Pitfalls

## Papers

PagedAttention.
"""


@pytest.fixture
def lesson(tmp_path):
    """A lesson without a fault, in a repository of its own."""
    for name in ("lessons/pictures", "notebooks"):
        (tmp_path / name).mkdir(parents=True)
    path = tmp_path / "lessons" / "91_lesson.md"
    path.write_text(LESSON)
    (tmp_path / "lessons" / "92_other.md").write_text("# Other")
    png = ["iVBORw0KGgo=", "iVBORw0KGgoA"]
    shown = [{"output_type": "display_data", "data": {"image/png": code}, "metadata": {}} for code in png]
    quoted = {"output_type": "display_data", "data": {KIND: {"name": "saved", "text": "35"}}, "metadata": {}}
    cells = [{"cell_type": "markdown", "source": ""}, {"cell_type": "code", "metadata": {}, "outputs": [*shown, quoted]}]
    (tmp_path / "notebooks" / "91_lesson.ipynb").write_text(json.dumps({"cells": cells}))
    for i, data in enumerate((b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n\x00"), 1):
        (tmp_path / "lessons" / "pictures" / f"91_{i}.png").write_bytes(data)
    return path


def faults(path):
    root = path.parents[1]
    return wrong_form(path.read_text()) + wrong_pictures(path, root) + wrong_links(path) + wrong_figures(path, root)


def test_a_lesson_without_a_fault(lesson):
    assert faults(lesson) == []


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("## When it hurts", "## When", "no section 'When it hurts'"),
        ("word " * 1400, "word " * 100, "words, 1,800 to"),
        ("<details>", "", "0 folded questions"),
        ("**Question 3?** " + "word " * 120, "**Question 3?** One line.", "an answer of 2 words"),
        ("**Question 3?**", "Question 3", "3 interview questions"),
        ("**Rubric**", "", "no short explanation"),
        ("(pictures/91_2.png)", "(pictures/91_3.png)", "91_3.png is no picture of this lesson's notebook, which has 2"),
        ("![A batch of eight gives more tokens a second than one alone.]", "![Batch]", "say what it shows"),
        ("![The time to the first token grows with the prompt, with and without.](pictures/91_1.png)", "", "1 pictures, 2"),
        ("[35]", "[34]", "its figures are not the notebook's"),
        ("92_other.md", "93_other.md", "93_other.md: there is no such file"),
        ("#why", "#how", "#how: there is no such heading"),
        ("""[35](../notebooks/91_lesson.ipynb "figure: saved")""", "35", "it quotes no figure"),
    ],
)
def test_a_planted_fault_is_named(lesson, old, new, says):
    assert old in LESSON
    lesson.write_text(LESSON.replace(old, new))
    found = faults(lesson)
    assert any(says in fault for fault in found), found


def test_a_picture_that_was_changed_by_hand_is_seen(lesson):
    (lesson.parent / "pictures" / "91_2.png").write_bytes(b"other")
    assert faults(lesson) == ["pictures/91_2.png is not the notebook's: minillm course notebooks 91"]
    shutil.rmtree(lesson.parent / "pictures")
    assert "pictures/91_1.png: there is no such file" in faults(lesson)


def test_a_figure_that_the_notebook_does_not_keep_is_named(lesson):
    lesson.write_text(LESSON.replace("figure: saved", "figure: svaed"))
    with pytest.raises(NotebookError, match="keeps no figure 'svaed'.*saved"):
        faults(lesson)


def test_figures_are_written_where_they_are_quoted():
    text = 'It is [1](../notebooks/02_kv.ipynb "figure: a") and [2](../notebooks/02_kv.ipynb "figure: b"), not [1](02_kv.md).'
    new = with_figures(text, {"02_kv": {"a": "7", "b": "8.5 ms"}})
    assert new == text.replace("[1](../", "[7](../").replace("[2]", "[8.5 ms]")
    double = {"cells": [{"outputs": [{"data": {KIND: {"name": "a", "text": "1"}}}] * 2}]}
    with pytest.raises(NotebookError, match="two figures are called 'a'"):
        figures(double)


def test_a_term_before_its_lesson_is_named():
    terms = {"goodput": ("13", ""), "KV cache": ("02", ""), "block table": ("04", "")}
    text = "A KV cache. Goodputs matter. `goodput` is code.\n\n```\nblock table\n```\n\n## Papers\n\nblock table"
    assert early_terms(text, "02", terms) == [
        "'goodput' is explained in lesson 13: link to glossary.md#goodput first, or say it otherwise"
    ]
    assert early_terms("[goodput](glossary.md#goodput) matters, and goodput is what counts", "02", terms) == []
    assert early_terms("Goodput matters: [goodput](glossary.md#goodput)", "02", terms) != [], "linked too late"
    assert early_terms(text, "13", terms) == []
    assert "link" in early_terms("The block tables", "03", terms)[0]


def test_prose_has_no_code_and_an_answer_ends_at_the_next_question():
    assert prose("a\n```\nb c\n```\n| d | e |\nf [g](h i)").split() == ["a", "f", "[g]"]
    assert list(answers(LESSON)) == [f"Question {i}?" for i in range(4)]
