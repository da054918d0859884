"""A quiz on the cards: ask, wait, answer, and let the person grade themselves.

Cards that are due come first, then new ones in the order of the lessons; what was forgotten comes back at the end of the
session. A card with a number can be answered by typing it. Every answer is on disk before the next question, so that
Control-C loses nothing. Input is lines, from a terminal or from a pipe alike: one to see the answer, one with the grade.
"""

import shutil
import sys
import textwrap
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from minillm.course.interview.cards import Card, Numeric
from minillm.course.interview.numbers import readings
from minillm.course.interview.recall import GRADES, Memory, Recall, is_due

QUIT = ("q", "quit")


class Stop(Exception):
    """The person has had enough, or the input has ended."""


def choose(cards: list[Card], memory: Mapping[str, Recall], today: date, count: int, only_due: bool = False) -> list[Card]:
    """Choose the next cards: those that are due, the longest overdue first, then new ones in the order of the lessons."""
    due = sorted((c for c in cards if is_due(memory.get(c.id), today)), key=lambda c: memory[c.id].due)
    new = [] if only_due else [c for c in cards if c.id not in memory]
    return (due + new)[:count]


def next_due(  # -> (date, how many cards) or None
    cards: list[Card], memory: Mapping[str, Recall], today: date
) -> tuple[date, int] | None:
    """Find when the next card becomes due, and how many do on that day."""
    dates = [recall.due for c in cards if (recall := memory.get(c.id)) and recall.due > today.isoformat()]
    return (date.fromisoformat(min(dates)), dates.count(min(dates))) if dates else None


def nothing_due(cards: list[Card], memory: Mapping[str, Recall], today: date) -> str:
    """Say why there is no question, and when there will be one."""
    new = sum(c.id not in memory for c in cards)
    text = "No card is due."
    if found := next_due(cards, memory, today):
        when, count = found
        days = (when - today).days
        wait = "tomorrow" if days == 1 else f"in {days} days"
        text += f" Next: {count} card{'s' * (count > 1)} {wait} ({when.isoformat()})."
    return text + (f" {new} have never been asked: leave --due out." if new else "")


def judge(numeric: Numeric, value: float) -> tuple[str | None, str]:  # Numeric, typed number -> (suggested grade, verdict)
    """Whether the number is right, in words that help."""
    expected = f"{numeric.expect:,.6g} {numeric.unit}".strip()
    if numeric.accepts(value):
        return "good", f"Right: {expected} (within {numeric.within:.0%})."
    ratio = value / numeric.expect
    if ratio < 0:
        return "again", f"Not the sign: {expected}."
    if ratio == 0 or not 1e-4 < ratio < 1e4:
        return "again", f"Far off: {expected}."
    factor = f"{ratio:.3g} times too large" if ratio > 1 else f"{1 / ratio:.3g} times too small"
    return ("hard" if 0.5 <= ratio <= 2 else "again"), f"Not quite: {expected}; yours is {factor}."


def wrapped(text: str, indent: str = "") -> str:  # -> text for the terminal
    """Wrap each line of a card by itself. Lines that begin with four spaces (code, tables) stay as they are."""
    width = max(20, min(shutil.get_terminal_size((88, 24)).columns - 1, 100))
    lines = []
    for line in text.splitlines():
        if line.startswith("    "):
            lines.append(indent + line)
        else:
            lines += textwrap.wrap(line, width, initial_indent=indent, subsequent_indent=indent) or [""]
    return "\n".join(lines)


@dataclass
class QuizSession:
    """One sitting. ask(prompt) returns a line or raises Stop; say(text) shows text."""

    memory: Memory
    ask: Callable[[str], str]
    say: Callable[[str], Any]
    today: date

    def run(self, cards: list[Card]) -> int:  # -> number of cards answered
        """Ask each card, and those that were forgotten again, until all are known or the person stops."""
        queue, asked, total = deque(cards), 0, len(cards)
        grades = dict.fromkeys(GRADES, 0)
        first: dict[Card, str] = {}
        try:
            while queue:
                card = queue.popleft()
                place = f"{asked + 1} of {total}" if asked < total else "once more"
                grade = self.one(card, place)
                asked += 1
                grades[grade] += 1
                first.setdefault(card, grade)
                self.memory.record(card.id, grade, self.today)
                if grade == "again":
                    queue.append(card)
        except Stop:
            self.say("")
        counted = ", ".join(f"{count} {grade}" for grade, count in grades.items() if count)
        kept = f": {counted}. Progress is kept in {self.memory.path}" if asked else "."
        self.say(f"{asked} answer{'s' * (asked != 1)}{kept}")
        for line in self.summary(first):
            self.say(line)
        return asked

    def summary(self, first: dict[Card, str]) -> Iterator[str]:  # {card: the first grade it got} -> lines
        """How it went by lesson, what to read again, and when to come back."""
        decks = list(dict.fromkeys(card.deck for card in first))
        for deck in decks:
            grades = [grade for card, grade in first.items() if card.deck == deck]
            yield f"  {deck}: {sum(grade in ('good', 'easy') for grade in grades)} of {len(grades)} known at once"
        for card, grade in first.items():
            if grade in ("again", "hard"):
                yield "  " + textwrap.shorten(f"again {card.id}: {card.question}", 77, placeholder=" …")
        if found := next_due(list(first), self.memory.cards, self.today):
            when, count = found
            days = (when - self.today).days
            wait = "tomorrow" if days == 1 else f"in {days} days"
            yield f"  next: {count} card{'s' * (count != 1)} {wait} ({when.isoformat()})"

    def one(self, card: Card, place: str) -> str:  # -> grade
        """Question, pause, answer, grade."""
        self.say(f"\n--- {place} · {card.id} · {card.level} · {card.deck}\n\n{wrapped(card.question)}\n")
        unit = f", in {card.numeric.unit}" if card.numeric and card.numeric.unit else ""
        typed = self.ask(f"[your number{unit}, or Enter for the answer] " if card.numeric else "[Enter for the answer] ")
        suggested = None  # where nothing was answered, nothing is known: Enter alone gives no grade
        if (numeric := card.numeric) and typed.strip():
            if found := readings(typed, numeric.unit):
                suggested, verdict = judge(numeric, min(found, key=lambda value: abs(value - numeric.expect)))
                self.say(verdict)
            else:
                wanted = f" in {numeric.unit}" if numeric.unit else ""
                self.say(f"That is no number{wanted}; judge yourself.")
        self.say(f"\n{wrapped(card.answer, '  ')}\n")
        for follow_up in card.follow_ups:
            self.say(wrapped(f"They may go on: {follow_up}", "  "))
        if card.experiment:
            self.say(f"  Try it: {card.experiment}")
        return self.grade(suggested)

    def grade(self, suggested: str | None) -> str:  # -> one of GRADES
        """again, hard, good, easy, by name, first letter or place; Enter takes the suggestion, where there is one."""
        enter = f"Enter: {suggested}; " if suggested else ""
        while True:
            typed = self.ask(f"Did you know it? [1 again, 2 hard, 3 good, 4 easy; {enter}q stops] ").strip().lower()
            if not typed and suggested:
                return suggested
            if not typed:
                self.say("Say how well you knew it: 1, 2, 3 or 4.")
                continue
            if typed in "1234" and len(typed) == 1:
                return GRADES[int(typed) - 1]
            if found := [name for name in GRADES if name.startswith(typed)]:
                return found[0]
            self.say(f"{typed[:20]!r} is none of {', '.join(GRADES)}.")


def ask_line(prompt: str) -> str:  # -> a line; Stop at the end of input, or where the person types q
    """Ask for a line, from a person or from a pipe, where the prompt ends its own line, as there is no Enter."""
    print(prompt, end="" if sys.stdin.isatty() else "\n", flush=True)
    line = sys.stdin.readline()
    if not line or line.strip().lower() in QUIT:
        raise Stop
    return line
