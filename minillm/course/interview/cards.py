"""Interview cards: a question, an answer of two minutes, and the number that proves it.

A deck is a file of a lesson, `lessons/cards/NN_name.toml`, with one `[[card]]` after another. A card with a `numeric` part
names an expression over the project's own cost formulas (formulas.py); a test recomputes it, so that no answer rots when a
formula changes. Reading is strict: an unknown field is a typing error, and says so with its file and card.
"""

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minillm.errors import MiniLLMError, did_you_mean

LEVELS = ("junior", "mid", "senior")
DECK_NAME = re.compile(r"\d\d_[a-z0-9_]+")
PACKAGE = Path(__file__).parents[2]


class CardError(MiniLLMError):
    """A deck that cannot be read, a card that is wrong, or a deck that does not exist."""


@dataclass(frozen=True, slots=True)
class Numeric:
    """A number that the answer rests on. within: relative, 0.1 for a tenth. unit: what to call it, for the quiz."""

    expression: str
    expect: float
    within: float
    unit: str = ""

    def accepts(self, value: float) -> bool:
        return abs(value - self.expect) <= self.within * abs(self.expect)


@dataclass(frozen=True, slots=True)
class Card:
    """One question. answer: lines of text, each a thought. experiment: a command that shows it."""

    id: str
    level: str
    question: str
    answer: str
    deck: str = ""
    tags: tuple[str, ...] = ()
    numeric: Numeric | None = None
    follow_ups: tuple[str, ...] = ()
    experiment: str = ""


def cards_folder() -> Path:
    """Find the decks: beside the package in a checkout, inside it when installed from a wheel."""
    inside = PACKAGE / "_lessons" / "cards"
    return inside if inside.is_dir() else PACKAGE.parent / "lessons" / "cards"


def read_decks(folder: Path | None = None) -> dict[str, list[Card]]:  # -> {deck name: [Card]}
    """Read all decks, in the order of the lessons."""
    folder = Path(folder or cards_folder())
    return {path.stem: read_deck(path) for path in sorted(folder.glob("*.toml"))}


def choose_decks(  # {name: cards}, "04", "4", "04_paged_attention" or "paged_attention" -> only that one
    decks: Mapping[str, list], name: str
) -> dict[str, list]:
    """Find the deck that a person means; CardError with the nearest name where there is none."""
    for deck in decks:
        if name in (deck, deck[:2], deck[3:]) or name.zfill(2) == deck[:2]:
            return {deck: decks[deck]}
    raise CardError(f"no deck is called {name!r}; {did_you_mean(name, decks)}")


def read_deck(path: Path) -> list[Card]:
    """Read the cards of one file, checked: fields, kinds, ids that begin with the lesson's number and occur once."""
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CardError(f"{path}: not valid TOML: {error}") from None
    except OSError as error:
        raise CardError(f"{path}: {error.strerror}") from None
    if not DECK_NAME.fullmatch(path.stem):
        raise CardError(f"{path}: a deck is called NN_name.toml, like its lesson.")
    if set(values) != {"card"} or not isinstance(values["card"], list) or any(not isinstance(t, dict) for t in values["card"]):
        raise CardError(f"{path}: expected [[card]] tables and nothing else, found {', '.join(values) or 'nothing'}.")
    cards, seen = [], set()
    for number, table in enumerate(values["card"], 1):
        where = f"{path}: card {table.get('id', f'number {number}')}"
        card = make_card(where, table, path.stem)
        if card.id in seen:
            raise CardError(f"{where}: this id occurs twice.")
        seen.add(card.id)
        cards.append(card)
    return cards


TEXTS = ("id", "level", "question", "answer")  # required
OPTIONAL = {"tags": list, "numeric": dict, "follow_ups": list, "experiment": str}
NUMERIC = {"expression": str, "expect": float, "within": float}


def make_card(where: str, table: dict[str, Any], deck: str) -> Card:  # text for errors, dict, deck name -> Card
    """Make a card from its table; CardError for anything missing, unknown or of the wrong kind."""
    check_fields(where, table, dict.fromkeys(TEXTS, str), OPTIONAL)
    if not re.fullmatch(rf"{deck[:2]}\.[1-9]\d*", table["id"]):
        raise CardError(f"{where}: an id in {deck} is {deck[:2]}.k with k from 1, found {table['id']!r}.")
    if table["level"] not in LEVELS:
        raise CardError(f"{where}: level is one of {', '.join(LEVELS)}, found {table['level']!r}.")
    for name in ("tags", "follow_ups"):
        if any(not isinstance(text, str) or not text.strip() for text in table.get(name, [])):
            raise CardError(f"{where}: {name} is a list of texts, found {table[name]!r}.")
    if bad := [tag for tag in table.get("tags", []) if not re.fullmatch(r"[\w-]+", tag)]:
        raise CardError(f"{where}: a tag is one word of letters, digits, - and _, found {bad[0]!r}.")
    numeric = None
    if "numeric" in table:
        check_fields(f"{where}, numeric", table["numeric"], NUMERIC, {"unit": str})
        numeric = Numeric(**table["numeric"])
        if numeric.expect == 0 or not math.isfinite(numeric.expect) or not 0 < numeric.within < 1:
            raise CardError(f"{where}: within is relative and between 0 and 1, of an expect that is not 0.")
    return Card(
        **{name: table[name].strip() for name in TEXTS},
        deck=deck,
        tags=tuple(table.get("tags", ())),
        numeric=numeric,
        follow_ups=tuple(table.get("follow_ups", ())),
        experiment=table.get("experiment", ""),
    )


def check_fields(where: str, table: Mapping[str, Any], required: Mapping[str, type], optional: Mapping[str, type]) -> None:
    """Check that every field is known, every required one there, each of its kind, and no text empty."""
    known = {**required, **optional}
    for name, value in table.items():
        if name not in known:
            raise CardError(f"{where}: unknown field {name!r}; {did_you_mean(name, known)}")
        kind = known[name]
        right = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
        if not right or (kind is str and not value.strip()):
            raise CardError(f"{where}: {name} must be a {KINDS[kind]}, found {value!r}.")
    if missing := [name for name in required if name not in table]:
        raise CardError(f"{where}: {', '.join(missing)} missing.")


KINDS = {str: "text that is not empty", float: "number", list: "list", dict: "table"}
