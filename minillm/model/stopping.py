"""Stop strings in a stream: hold back what may turn out to be the beginning of one.

A stop string can arrive in pieces, and it is no part of the output. So text goes out only as far as no stop string can
still begin in it: with stop "\\n\\n" a single newline waits for the next piece.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class StopStrings:
    """Takes text with `push`, returns what is safe to show. `hit` is the stop string that ended it, if one did."""

    stops: Sequence[str]
    held: str = ""
    hit: str | None = None

    def push(self, text: str, look: bool = True) -> str:
        """Take more text, return what can be shown; after a hit, nothing more comes out.

        look: False where no stop string may end in this text (min_tokens); one that begins in it may end later.
        """
        if not self.stops:
            return text
        if self.hit is not None:
            return ""
        text = self.held + text
        found = [(text.find(stop), stop) for stop in self.stops if stop in text] if look else []
        if found:
            at, self.hit = min(found)
            self.held = ""
            return text[:at]
        keep = max((overlap(text, stop) for stop in self.stops), default=0)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Return the rest at the end: it begins no stop string after all."""
        rest, self.held = self.held, ""
        return rest


def overlap(text: str, stop: str) -> int:
    """Find the length of the longest end of text that is a proper beginning of stop."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
