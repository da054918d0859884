"""Cards for Anki: a text file by the standard library, or an .apkg through genanki.

Anki recognizes a note by its GUID. Ours is a hash of the card's id, the same in both formats, so importing a later version
updates the notes, and what the person has learnt stays. Anki reads fields as HTML: texts are escaped, lines become <br>, what
stands between asterisks or backticks becomes emphasis or code, and lines that begin with four spaces (drawings, code) are <pre>,
which every client shows in a font of one width.
"""

import hashlib
import html
import re
from base64 import urlsafe_b64encode
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from minillm.course.interview.cards import Card
from minillm.errors import MiniLLMError
from minillm.files import replacing

MARKUP = (  # Markdown of the cards, after escaping; an asterisk between spaces is a product and stays
    (re.compile(r"`([^`]+)`"), r"<code>\1</code>"),
    (re.compile(r"(?<![\w*])\*\*(?=\S)([^*]+?)(?<=\S)\*\*(?![\w*])"), r"<b>\1</b>"),
    (re.compile(r"(?<![\w*])\*(?=\S)([^*]+?)(?<=\S)\*(?![\w*])"), r"<i>\1</i>"),
)
FIXED = "font-family: Menlo, Consolas, 'DejaVu Sans Mono', monospace; font-size: 14px; white-space: pre; overflow-x: auto"


class AnkiError(MiniLLMError):
    """An export that cannot be written."""


def guid(card: Card) -> str:  # -> 12 characters that depend on the id alone
    return urlsafe_b64encode(hashlib.sha256(f"minillm card {card.id}".encode()).digest()[:9]).decode()


def stable_id(text: str) -> int:  # -> int, as Anki wants for decks and note types
    return 1 << 30 | int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) & (1 << 30) - 1


def as_html(text: str) -> str:
    """Convert a text of a card: lines, emphasis and code; drawings as they are, in a font of one width."""
    parts = []
    for drawn, lines in groupby(text.strip("\n").rstrip().splitlines(), key=lambda line: line.startswith("    ")):
        if drawn:  # no line break in it: the text format of Anki has a note a line
            parts.append(f'<pre style="{FIXED}">' + "<br>".join(html.escape(line[4:]) for line in lines) + "</pre>")
        else:
            parts.append("<br>".join(map(in_line, lines)))
    return "".join(parts)


def in_line(line: str) -> str:
    """Emphasis and code of one line; what is in backticks stays as it is."""
    pieces = re.split(r"(`[^`]+`)", html.escape(line).replace("  ", "&nbsp; "))
    return "".join(marked(piece, MARKUP[:1] if piece.startswith("`") else MARKUP[1:]) for piece in pieces)


def marked(text: str, rules: Iterable[tuple[Any, str]]) -> str:
    for pattern, tag in rules:
        text = pattern.sub(tag, text)
    return text


def front(card: Card) -> str:
    return as_html(card.question)


def back(card: Card) -> str:
    """Make the back of a card: the answer, and below a line the follow-ups."""
    more = [f"Follow-up: {text}" for text in card.follow_ups]
    more += [f"Try it: {card.experiment}"] if card.experiment else []
    return as_html(card.answer) + (f"<hr>{as_html(chr(10).join(more))}" if more else "")


def tags(card: Card) -> list[str]:
    return ["minillm", card.level, *card.tags]


def tsv(cards: list[Card]) -> str:
    """Anki's text format with its header lines (since 2.1.54): which column is what."""
    lines = ["#separator:tab", "#html:true", "#guid column:1", "#deck column:2", "#tags column:5"]
    for card in cards:
        fields = (  # as_html has escaped quotation marks, the other character that would need care
            guid(card), f"minillm::{card.deck}", front(card), back(card), " ".join(tags(card)),
        )  # fmt: skip
        lines.append("\t".join(field.replace("\t", " ") for field in fields))
    return "\n".join(lines) + "\n"


def write_apkg(cards: list[Card], file: Any) -> None:
    """Write a package of one deck a lesson. AnkiError where genanki is not installed."""
    try:
        import genanki
    except ImportError:
        hint = "pip install 'minillm-course[anki]', or write a .tsv"
        raise AnkiError(f"an .apkg needs genanki, which is not installed: {hint}") from None
    note_type = genanki.Model(
        stable_id("minillm note type"),
        "minillm card",
        fields=[{"name": "Front"}, {"name": "Back"}],
        templates=[{"name": "Card", "qfmt": "{{Front}}", "afmt": "{{FrontSide}}<hr id=answer>{{Back}}"}],
        css=".card { font-family: sans-serif; font-size: 18px; text-align: left; max-width: 40em; margin: auto; }",
    )
    decks: dict[str, Any] = {}
    for card in cards:
        name = f"minillm::{card.deck}"
        deck = decks.setdefault(name, genanki.Deck(stable_id(name), name))
        deck.add_note(genanki.Note(note_type, [front(card), back(card)], guid=guid(card), tags=tags(card)))
    genanki.Package(list(decks.values())).write_to_file(file)


def export(cards: list[Card], path: str | Path) -> Path:
    """Write cards for Anki: .apkg, or text with any of .tsv and .txt. The file appears whole or not at all."""
    path = Path(path)
    if path.suffix not in (".tsv", ".txt", ".apkg"):
        raise AnkiError(f"{path}: an export ends in .tsv, .txt or .apkg, found {path.suffix or 'no ending'!r}.")
    with replacing(path, AnkiError) as file:
        if path.suffix == ".apkg":
            write_apkg(cards, file)
        else:
            file.write(tsv(cards).encode())
    return path
