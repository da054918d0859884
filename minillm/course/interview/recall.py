"""When to ask a card again: SM-2, and the file that remembers.

What was recalled is asked again after a day, after six days, and from then on after the last interval times an ease factor,
which grows with easy answers and shrinks with hard ones. What was forgotten starts over, the same day.

    EF ← max(1.3, EF + 0.1 - (5 - q)·(0.08 + (5 - q)·0.02))        q: again 1, hard 3, good 4, easy 5

Woźniak 1990, "Optimization of learning", chapter 3.2. The file is one JSON object, replaced by rename after every card.
"""

import json
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path

from minillm.errors import MiniLLMError
from minillm.files import write_text
from minillm.folders import user_folder

GRADES = {"again": 1, "hard": 3, "good": 4, "easy": 5}
VERSION = 1
LONGEST = 36_500  # days; a hundred years of easy answers must not leave the calendar


class RecallError(MiniLLMError):
    """A state file that cannot be read or written."""


@dataclass(frozen=True, slots=True)
class Recall:
    """What is known about one card: times recalled in a row, days between, ease factor, when it is due, times forgotten."""

    due: str  # ISO date
    repetitions: int = 0
    interval_days: int = 0
    ease: float = 2.5
    lapses: int = 0

    def __post_init__(self):
        date.fromisoformat(self.due)
        counts = (self.repetitions, self.interval_days, self.lapses)
        if any(type(n) is not int or n < 0 for n in counts) or not 1.3 <= self.ease < 100:
            raise ValueError(self)


def after(recall, grade, today):  # Recall or None for a new card, one of GRADES, date -> Recall
    """SM-2: the card's state after an answer."""
    recall, q = recall or Recall(today.isoformat()), GRADES[grade]
    if q < 3:  # the original keeps the ease factor here: forgetting is paid for by starting over
        return Recall(today.isoformat(), 0, 0, recall.ease, recall.lapses + 1)
    ease = max(1.3, recall.ease + 0.1 - (5 - q) * (0.08 + (5 - q) * 0.02))
    days = (1, 6)[recall.repetitions] if recall.repetitions < 2 else round(recall.interval_days * ease)
    days = min(days, LONGEST)
    return Recall((today + timedelta(days)).isoformat(), recall.repetitions + 1, days, round(ease, 4), recall.lapses)


def is_due(recall, today):  # Recall or None, date -> bool; a card never seen is new, not due
    return recall is not None and recall.due <= today.isoformat()


def state_folder():  # -> path
    """$MINILLM_STATE, or `minillm` in the platform's folder for what a program must not lose."""
    return user_folder("MINILLM_STATE", mac="Application Support", xdg="XDG_STATE_HOME", default=".local/state")


class Memory:
    """The state file: {card id: Recall}. Cards of decks that are not here now stay in it."""

    def __init__(self, path=None, notice=lambda text: None):
        self.path = Path(path or state_folder() / "quiz.json")
        self.notice = notice
        self.cards = self.read()

    def read(self):  # -> {card id: Recall}
        """What the file holds. One that is damaged is set aside under another name, and `notice` says so."""
        try:
            values = json.loads(self.path.read_text(encoding="utf-8"))
            if values["version"] > VERSION:
                raise RecallError(f"{self.path} has version {values['version']}, this program knows {VERSION}: update minillm.")
            return {str(card): Recall(**fields) for card, fields in values["cards"].items()}
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise RecallError(f"{self.path}: {error.strerror}") from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return self.set_aside()

    def set_aside(self):  # -> {}
        """Keep what cannot be read: somebody's months of learning may be in it."""
        number = 1
        while (kept := self.path.with_name(f"{self.path.stem}.damaged-{number}.json")).exists():
            number += 1
        try:
            self.path.rename(kept)
        except OSError as error:
            raise RecallError(f"{self.path} is damaged, and could not be set aside: {error.strerror}") from None
        self.notice(f"{self.path} could not be read; it is kept as {kept.name}, and the quiz starts from the beginning.")
        return {}

    def record(self, card, grade, today):  # -> Recall
        """Note an answer, and write the file. Another quiz may have written it meanwhile: its cards are kept."""
        recall = after(self.cards.get(card), grade, today)
        self.cards = {**self.cards, **self.read(), card: recall}
        values = {"version": VERSION, "cards": {card: asdict(recall) for card, recall in sorted(self.cards.items())}}
        write_text(self.path, json.dumps(values, indent=1) + "\n", RecallError)
        return recall
