"""Tables are as wide as their widest cells; progress is silent without a terminal; and nothing else draws either."""

import io
import re
from pathlib import Path

import minillm
from minillm import terminal

PACKAGE = Path(minillm.__file__).parent


class Screen(io.StringIO):
    def isatty(self):
        return True


def test_a_table_is_as_wide_as_its_widest_cells():
    rows = [["numpy", "1,234.5", "a note that is long"], ["numba", "9.0"]]
    assert terminal.table(["", "tokens/s", "note"], rows, "<><").splitlines() == [
        "       tokens/s  note",
        "numpy   1,234.5  a note that is long",
        "numba       9.0",
    ]
    assert terminal.table(["a", "b"], []) == "a  b"


def test_a_terminal_sees_progress_and_a_file_does_not(monkeypatch):
    for screen, seen in ((Screen(), True), (io.StringIO(), False)):
        monkeypatch.setattr("sys.stderr", screen)
        terminal.say("round 1")
        with terminal.bar(3, "steps", done=1) as progress:
            progress.update(2)
        assert ("round 1" in screen.getvalue(), "3/3" in screen.getvalue()) == (seen, seen)


def test_bars_and_tables_come_from_here():
    """No other module makes a bar of its own, and no command or benchmark lays out columns by hand."""
    sources = {path: path.read_text() for path in PACKAGE.rglob("*.py")}
    makers = {path.name for path, text in sources.items() if re.search(r"\btqdm\(", text)}
    rooms = ("minillm", "bench", "cli", "load")
    columns = re.compile(r"\{''?:[<>]?\d+\}.*\{''?:")  # f"{'':16}{'': …
    by_hand = {path.name for path, text in sources.items() if path.parent.name in rooms and columns.search(text)}
    assert (makers, by_hand) == ({"terminal.py"}, set())
