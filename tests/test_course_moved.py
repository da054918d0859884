"""A work folder with old paths: named, moved on request, and not a byte of it lost."""

import ast

import pytest

from minillm.cli import main
from minillm.course.exercises import moved
from minillm.course.exercises.index import Course, CourseError

IMPORTS = '''"""Mine."""

import minillm.serving.step as s, math
import minillm.events
from minillm.serving import order, step as steps, unknown
from minillm.serving.step import (
    split_budget,
)
from minillm.errors import RequestError


def order_of(x):
    from minillm.serving.order import Priority  # late
    return "minillm.serving.order stays in a text"
'''


def test_every_old_place_leads_to_a_file_of_the_package():
    package = Course().package
    assert len(moved.PATHS) > 30
    assert [new for new in moved.PATHS.values() if not (package / new).is_file()] == []
    assert [old for old in moved.PATHS if (package / old).exists()] == []


def test_an_old_folder_is_named_and_then_moved_with_all_that_is_in_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    work = tmp_path / "work"
    (work / "serving").mkdir(parents=True)
    reference = (Course().package / "scheduler/step.py").read_text(encoding="utf-8")
    mine = reference.replace("minillm.scheduler.plan", "minillm.serving.plan") + "\n# my own note é\n"
    (work / "serving/step.py").write_text(mine, encoding="utf-8")
    (work / "serving/notes.txt").write_text("mine")
    (work / "layers.py").write_bytes(b"\xff not text")
    for words in (["check"], ["start", "06"], ["status"], ["hint"]):
        assert main(["course", *words]) == 2
        said = capsys.readouterr().err
        assert "serving/step.py is scheduler/step.py now" in said and "minillm course check --move" in said
    assert (work / "serving/step.py").read_text(encoding="utf-8") == mine
    main(["course", "check", "06.1", "--move"])
    said = capsys.readouterr().out
    assert "work: serving/step.py is scheduler/step.py now" in said and "06.1" in said
    assert not (work / "serving/step.py").exists() and (work / "serving/notes.txt").read_text() == "mine"
    assert (work / "scheduler/step.py").read_text(encoding="utf-8") == reference + "\n# my own note é\n"
    assert (work / "layers.py").read_bytes() == b"\xff not text"


def test_where_both_places_hold_a_file_both_stay(tmp_path):
    for file in ("serving/order.py", "scheduler/queues.py"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(file)
    with pytest.raises(CourseError, match="holds serving/order.py and scheduler/queues.py"):
        moved.bring_over(tmp_path)
    assert (tmp_path / "serving/order.py").read_text() == "serving/order.py"


def test_imports_are_renamed_and_nothing_else_is():
    new = moved.renamed(IMPORTS)
    ast.parse(new)
    for line in (
        "import minillm.scheduler.step as s, math",
        "import minillm.metrics.events",
        "import minillm.scheduler.queues as order",
        "import minillm.scheduler.step as steps",
        "from minillm.serving import unknown",
        "from minillm.scheduler.step import (\n    split_budget,\n)",
        "    from minillm.scheduler.queues import Priority",
        '    return "minillm.serving.order stays in a text"',
    ):
        assert f"{line}\n" in new or f"{line}  #" in new, line
    assert moved.renamed(new) == new
    assert moved.renamed("def broken(:\n    import minillm.events\n").startswith("def broken(:")
