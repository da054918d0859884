"""The front page: its table is what the file holds, its links lead somewhere, and it promises nothing that is not there."""

import re

import pytest
from command_help import ROOT
from script_help import script

README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = script("results/results.py")


def test_the_table_says_what_the_file_holds():
    import json

    result = json.loads((ROOT / "data/results/results.json").read_text(encoding="utf-8"))
    assert RESULTS.with_page(README, RESULTS.page(result)) == README, "python data/results/results.py --page"
    assert all(rung["same_tokens"] for rung in result["rungs"]) and len(result["rungs"]) == 3
    other = result | {"cpu_share": 0.5}
    assert "busy: a process got 50% of its cores" in RESULTS.page(other) != RESULTS.page(result | {"cpu_share": 1.0})


def test_the_marks_must_be_there():
    with pytest.raises(SystemExit, match="has no"):
        RESULTS.with_page("no marks", "text")


def test_a_busy_machine_writes_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(RESULTS, "HERE", tmp_path)

    def tour(argv):
        (tmp_path / "tour.json").write_text('{"cpu_share": 0.3}')

    monkeypatch.setattr(RESULTS, "minillm", tour)
    with pytest.raises(SystemExit, match="got 30% of this machine: nothing written"):
        RESULTS.measure("tiny", busy=False)


def test_the_picture_is_small_and_links_are_real():
    links = re.findall(r"\]\(([^)#\s]+)\)", README)
    assert len(links) > 30 and [link for link in links if not (ROOT / link).exists()] == []
    picture = ROOT / "data/results/tour.png"
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size < 150_000


def test_every_lesson_and_notebook_is_linked_and_no_other():
    lessons = {path.name for path in (ROOT / "lessons").glob("[0-9][0-9]_*.md")}
    assert set(re.findall(r"\(lessons/(\d\d_\w+\.md)\)", README)) == lessons
    assert set(re.findall(r"\(notebooks/(\d\d_\w+)\.ipynb\)", README)) == {name[:-3] for name in lessons}
    assert "to come" not in README


def test_every_extra_is_explained():
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = set(re.findall(r"^\| `(\w+)` \| ", README, re.M))
    assert named <= extras.keys() and extras.keys() - named <= {"cuda12", "cuda13", "gpucheck"}  # GPUs: a lesson to be
