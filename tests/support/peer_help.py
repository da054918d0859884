"""Stand-ins of peers in an environment of their own, for tests of what peers are asked."""

import json
import os
import sys
from pathlib import Path

SUPPORT = Path(__file__).parent


def stand_ins(tmp_path, monkeypatch):
    """Make a virtual environment that holds stand-ins of all peers. Returns its folder."""
    python = tmp_path / "peers" / "bin" / "python"
    python.parent.mkdir(parents=True)
    paths = f"{SUPPORT / 'stub_peers'}:{SUPPORT}"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{paths}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("STUB_LOG", str(tmp_path / "log"))
    return tmp_path / "peers"


def noted(what):
    """Return what the stand-ins wrote down of one kind."""
    lines = map(json.loads, Path(os.environ["STUB_LOG"]).read_text().splitlines())
    return [line for line in lines if line["what"] == what]
