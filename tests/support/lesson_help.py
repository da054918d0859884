"""What a lesson must have, as text: a list of what is wrong with it, empty if nothing is."""

import json
import re
from pathlib import Path

from minillm.course.notebooks.contract import pictures
from minillm.course.notebooks.figures import QUOTED, figures, with_figures
from minillm.course.notebooks.phone import same_picture, stacked

ROOT = Path(__file__).parents[2]
LESSONS = sorted((ROOT / "lessons").glob("[0-9][0-9]_*.md"))
SECTIONS = ("Why", "The picture", "The mathematics", "A walk through the code", "When it hurts", "Exercises",
            "Interview questions", "Pitfalls", "Papers")  # fmt: skip
WORDS = (1800, 3000)  # of prose; code, tables, pictures, exercises and papers do not count
ANSWER = 110  # words, at least: what is said in two minutes is not one line
PREDICTIONS, PICTURES = 3, 2
LINK = re.compile(r"\]\(([^)\s]+)(?: \"[^\"]*\")?\)")
PICTURE = re.compile(r"!\[([^\]]*)\]\((pictures/(\d\d)_\d+\.png)\)")


def notebook(name, root=ROOT):  # "02_kv_cache" -> the built notebook
    return json.loads((root / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))


def prose(text):
    """The text without code, tables and links' targets."""
    text = re.sub(r"```.*?```", "", text, flags=re.S)
    text = re.sub(r"^\|.*$", "", text, flags=re.M)
    return re.sub(r"\]\([^)]*\)", "]", text)


def sections(text):  # -> {title: body}
    parts = re.split(r"^## (.+)$", re.sub(r"```.*?```", "", text, flags=re.S), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def answers(text):  # -> {question: answer}
    """The interview questions of a lesson: a question in bold, its answer behind it."""
    body = sections(text).get("Interview questions", "")
    parts = re.split(r"^\*\*(.+?\?)\*\*", body, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def wrong_form(text):  # -> [text]
    """What the mould asks for and the lesson lacks."""
    found, have = [], sections(text)
    found += [f"no section '{name}'" for name in SECTIONS if name not in have]
    aside = r"!\[[^\]]*\]|^## (?:Exercises|Papers)\n.*?(?=^## |\Z)"
    words = len(re.sub(aside, "", prose(text), flags=re.M | re.S).split())
    if not WORDS[0] <= words <= WORDS[1]:
        found.append(f"{words:,} words, {WORDS[0]:,} to {WORDS[1]:,} wanted")
    if (count := text.count("<details>")) < PREDICTIONS:
        found.append(f"{count} folded questions to predict, {PREDICTIONS} wanted")
    if len(asked := answers(text)) < 4:
        found.append(f"{len(asked)} interview questions, 4 wanted")
    short = {question: n for question, answer in asked.items() if (n := len(answer.split())) < ANSWER}
    found += [f"an answer of {n} words, {ANSWER} wanted: {question}" for question, n in short.items()]
    if "**In your own words**" not in text or "**Rubric**" not in text:
        found.append("no short explanation to write ('**In your own words**') with a rubric ('**Rubric**')")
    return found


def wrong_pictures(path, root=ROOT):  # path of a lesson -> [text]
    """Pictures that are not there, are not its notebook's, say nothing to who cannot see them, or are too few."""
    text, number = path.read_text(encoding="utf-8"), path.stem[:2]
    drawn = [stacked(picture.png, len(picture.panels)) for picture in pictures(notebook(path.stem, root))]
    kept = {f"pictures/{number}_{i}.png": png for i, png in enumerate(drawn, 1)}
    found, embedded = [], PICTURE.findall(text)
    for words, target, _ in embedded:
        file = root / "lessons" / target
        if target not in kept:
            found.append(f"{target} is no picture of this lesson's notebook, which has {len(drawn)}")
        elif not file.is_file() or not same_picture(file.read_bytes(), kept[target]):
            found.append(f"{target} is not the notebook's: minillm course notebooks {number}")
        if len(words.split()) < 8:
            found.append(f"{target}: say what it shows, in a sentence, between the square brackets")
    if len({target for _, target, _ in embedded}) < PICTURES:
        found.append(f"{len(embedded)} pictures, {PICTURES} wanted")
    return found


def wrong_links(path):  # path of a page -> [text]
    """Links to files that are not there, and to headings that no page has."""
    found, text = [], re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(encoding="utf-8"), flags=re.S)
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, heading = target.partition("#")
        other = path.parent / file if file else path
        if not other.exists():
            found.append(f"{target}: there is no such file")
        elif heading and heading not in anchors(other.read_text(encoding="utf-8")):
            found.append(f"{target}: there is no such heading")
    return found


def anchors(text):  # -> {what a link to a heading, or to a term of the glossary, says}
    headings = re.findall(r"^#+ (.+)$", text, flags=re.M)
    named = re.findall(r'<a id="([^"]+)">', text)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings} | set(named)


def wrong_figures(path, root=ROOT):  # path of a lesson -> [text]
    text = path.read_text(encoding="utf-8")
    names = {match["notebook"] for match in QUOTED.finditer(text)}
    known = {name: figures(notebook(name, root)) for name in names}
    if not names:
        return ["it quotes no figure of its notebook"]
    return [] if with_figures(text, known) == text else ["its figures are not the notebook's: minillm course figures"]


# --- the glossary ---------------------------------------------------------------------------------------------------------


def glossary(text):  # -> {term: (lesson, module)}
    """Entries: - <a id="ttft"></a>**TTFT**: what it is. [Lesson 01](01_inference.md), [`metrics/events.py`](...)"""
    rows = re.findall(r"^- <a id=\"[^\"]+\"></a>\*\*(.+?)\*\*: .+\. \[?Lesson (\d\d)\b(.*)$", text, flags=re.M)
    return {term: (lesson, module) for term, lesson, module in rows}


def early_terms(text, lesson, terms):  # text of a lesson, "02", {term: (lesson, module)} -> [text]
    """Terms that a lesson uses before the lesson that explains them, and before it links to their row of the glossary."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S).split("\n## Papers")[0]
    found = []
    for term, (explained, _) in terms.items():
        link = re.search(rf"\]\(glossary\.md#{anchor(term)}\)", text)
        before = text[: text.rindex("[", 0, link.start())] if link else text
        plain = re.sub(r"\]\([^)]*\)", "]", before)
        if explained > lesson and re.search(rf"(?<![\w-]){re.escape(term)}(?:s|es)?(?![\w-])", plain, flags=re.I):
            how = f"link to glossary.md#{anchor(term)} first, or say it otherwise"
            found.append(f"{term!r} is explained in lesson {explained}: {how}")
    return found


def anchor(term):
    return re.sub(r"[^a-z0-9]+", "-", term.lower()).strip("-")
