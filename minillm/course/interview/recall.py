"""When to ask a card again: FSRS, and the file that remembers.

A memory has a stability S, the days after which it is recalled with a chance of 90%, and a difficulty D from 1 to 10. Each answer
moves both, and the card is asked again after S days. What was forgotten is asked again the same day.

    R(t) = (1 + (0.9^(-1/w) - 1) · t/S)^-w       the chance of recall after t days; w is fitted, with 20 more, to real reviews

Ye et al. 2022, "A Stochastic Shortest Path Algorithm for Optimizing Spaced Repetition Scheduling"; the package fsrs is that of
the Open Spaced Repetition group. The file is one JSON object, replaced by rename after every card. Files of version 1 hold
intervals and ease factors of SM-2, which are taken over.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from minillm.errors import MiniLLMError
from minillm.files import write_text
from minillm.folders import user_folder

GRADES = ("again", "hard", "good", "easy")
VERSION = 2
LONGEST = 36_500  # days; a hundred years of easy answers must not leave the calendar


class RecallError(MiniLLMError):
    """A state file that cannot be read or written, or no scheduler to go on with."""


@dataclass(frozen=True, slots=True)
class Recall:
    """What is known about one card: when it is due and was last asked, stability (days), difficulty, times forgotten."""

    due: str  # ISO date
    last: str  # ISO date
    stability: float
    difficulty: float
    lapses: int = 0

    def __post_init__(self) -> None:
        date.fromisoformat(self.due), date.fromisoformat(self.last)
        known = 0 < self.stability < math.inf and 1 <= self.difficulty <= 10
        if not known or type(self.lapses) is not int or self.lapses < 0:
            raise ValueError(self)


def scheduler() -> Any:  # -> fsrs.Scheduler
    """Make FSRS plan in whole days, since a quiz is one sitting: no steps of minutes, and no fuzz."""
    try:
        from fsrs import Scheduler
    except ImportError:
        raise RecallError("the quiz needs fsrs, which is not installed: pip install fsrs") from None
    return Scheduler(learning_steps=(), relearning_steps=(), maximum_interval=LONGEST, enable_fuzzing=False)


def after(  # Recall or None for a new card, one of GRADES, date -> Recall
    recall: Recall | None, grade: str, today: date
) -> Recall:
    """Update a card's state with an answer."""
    plan = scheduler()
    from fsrs import Card, Rating, State

    card = Card(card_id=0)  # an id of its own would cost a millisecond
    if recall:
        last = midnight(recall.last)
        card = Card(0, State.Review, stability=recall.stability, difficulty=recall.difficulty, last_review=last)
    card, _ = plan.review_card(card, Rating(GRADES.index(grade) + 1), midnight(today.isoformat()))
    due = today if grade == "again" else card.due.date()
    lapses = (recall.lapses if recall else 0) + (grade == "again")
    return Recall(due.isoformat(), today.isoformat(), round(card.stability, 4), round(card.difficulty, 4), lapses)


def midnight(day: str) -> datetime:  # ISO date -> datetime
    return datetime.combine(date.fromisoformat(day), time(), UTC)


def from_sm2(  # fields of a file of version 1 -> Recall
    due: str, repetitions: int = 0, interval_days: int = 0, ease: float = 2.5, lapses: int = 0
) -> Recall:
    """Convert SM-2's state: the interval as S, and the D with which FSRS, on the due day, would stretch it by the ease.

    As Anki does: fsrs-rs, memory_state_from_sm2, at a retention of 90%.
    """
    if any(type(n) is not int or n < 0 for n in (repetitions, interval_days, lapses)) or not 1.3 <= ease < 100:
        raise ValueError(due, repetitions, interval_days, ease, lapses)
    w = scheduler().parameters
    stability = max(interval_days, w[0])  # w₀: after a first answer that was wrong
    difficulty = 11 - (ease - 1) / (math.exp(w[8]) * stability ** -w[9] * (math.exp(0.1 * w[10]) - 1))
    last = date.fromisoformat(due) - timedelta(interval_days)
    return Recall(due, last.isoformat(), stability, round(min(max(difficulty, 1.0), 10.0), 4), lapses)


def is_due(recall: Recall | None, today: date) -> bool:  # Recall or None, date -> bool; a card never seen is new, not due
    return recall is not None and recall.due <= today.isoformat()


def state_folder() -> Path:
    """Find the folder for the state: $MINILLM_STATE, or `minillm` in the platform's folder for data."""
    return user_folder("MINILLM_STATE", mac="Application Support", xdg="XDG_STATE_HOME", default=".local/state")


class Memory:
    """The state file: {card id: Recall}. Cards of decks that are not here now stay in it."""

    def __init__(self, path: str | Path | None = None, notice: Callable[[str], Any] = lambda text: None) -> None:
        self.path = Path(path or state_folder() / "quiz.json")
        self.notice = notice
        self.cards = self.read()

    def read(self) -> dict[str, Recall]:  # -> {card id: Recall}
        """Read the file. One that is damaged is set aside under another name, and `notice` says so."""
        try:
            values = json.loads(self.path.read_text(encoding="utf-8"))
            if values["version"] > VERSION:
                raise RecallError(f"{self.path} has version {values['version']}, this program knows {VERSION}: update minillm.")
            make = from_sm2 if values["version"] == 1 else Recall
            return {str(card): make(**fields) for card, fields in values["cards"].items()}
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise RecallError(f"{self.path}: {error.strerror}") from None
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            return self.set_aside()

    def set_aside(self) -> dict[str, Recall]:
        """Keep a file that cannot be read: months of learning may be in it."""
        number = 1
        while (kept := self.path.with_name(f"{self.path.stem}.damaged-{number}.json")).exists():
            number += 1
        try:
            self.path.rename(kept)
        except OSError as error:
            raise RecallError(f"{self.path} is damaged, and could not be set aside: {error.strerror}") from None
        self.notice(f"{self.path} could not be read; it is kept as {kept.name}, and the quiz starts from the beginning.")
        return {}

    def record(self, card: str, grade: str, today: date) -> Recall:
        """Record an answer, and write the file. Another quiz may have written it meanwhile: its cards are kept."""
        recall = after(self.cards.get(card), grade, today)
        self.cards = {**self.cards, **self.read(), card: recall}
        values = {"version": VERSION, "cards": {card: asdict(recall) for card, recall in sorted(self.cards.items())}}
        write_text(self.path, json.dumps(values, indent=1) + "\n", RecallError)
        return recall
