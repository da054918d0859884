"""The parser of all commands: argparse, whose complaint is one line that names what was meant.

An option belongs to one command. What another command has is refused with that command's name, what is misspelled with the
nearest option, and an abbreviation as any other unknown word: it could mean another option tomorrow.
"""

import argparse
import re
from collections.abc import Iterable
from itertools import takewhile
from typing import Any, NoReturn, cast

from minillm.errors import nearest

KNOWN_TO_ALL = {"-h", "--help"}


class Parser(argparse.ArgumentParser):
    """A command, or one of its actions.

    default: the action that is meant where options follow the command at once (`minillm bench --batch 4`).
    siblings: {name: parser} of what could have been chosen in its place.
    """

    default: str | None = None
    siblings: dict[str, "Parser"] = {}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options | {"allow_abbrev": False})

    def choices(self) -> dict[str, "Parser"]:
        """The actions to choose from; none for a command that has only options."""
        return cast(dict, self._subparsers._group_actions[0].choices) if self._subparsers else {}

    def introduce(self) -> None:
        """Make the actions known to each other, on every level."""
        for parser in self.choices().values():
            parser.siblings = self.choices()
            parser.introduce()

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"minillm: {' '.join(message.split())}{self.hint(message)}; {self.prog} --help says what there is.\n")

    def hint(self, message: str) -> str:  # " (did you mean …?)", " (… has it)", or nothing
        """Name the nearest of what there is, the commands that have an option, or the right place of a word."""
        if found := re.search(r"invalid choice: '?([\w-]+).*?choose from (.*)\)", message):
            return self.did_you_mean(found[1], re.findall(r"[\w-]+", found[2]))
        if not (found := re.search(r"unrecognized arguments: (-*([\w-]+))", message)):
            return ""
        word, name = found.groups()
        if word in self.siblings:
            return f" ({word} comes before its options)"
        if word == name:
            return ""
        if any(word in child._option_string_actions for child in self.choices().values()):
            return f" ({word} comes after the name of a command that has it)"
        mine = {option.lstrip("-"): option for option in self._option_string_actions.keys() - KNOWN_TO_ALL}
        if near := self.did_you_mean(name, mine):
            return near.replace("mean ", "mean --")
        having = [other.prog for other in self.siblings.values() if word in other._option_string_actions]
        return f" ({' and '.join(having)} ha{'ve' if having[1:] else 's'} it)" if having else ""

    def did_you_mean(self, word: str, known: Iterable[str]) -> str:
        near = nearest(word, known)
        return f" (did you mean {near}?)" if near else ""

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]  # argparse overloads it
        """Refuse an unknown option here, where the command's own are known, before its value is taken for another word."""
        if args is not None:
            if self.default and (not args or args[0].startswith("-") and args[0] not in KNOWN_TO_ALL):
                args = [self.default, *args]
            mine = takewhile(lambda word: word.startswith("-") if self._subparsers else word != "--", args)
            options = [word.partition("=")[0] for word in mine if word.startswith("--") and word != "--"]
            if unknown := [option for option in options if option not in self._option_string_actions]:
                self.error(f"unrecognized arguments: {' '.join(unknown)}")
        values, left = super().parse_known_args(args, namespace)
        if left:
            self.error(f"unrecognized arguments: {' '.join(left)}")
        return values, left
