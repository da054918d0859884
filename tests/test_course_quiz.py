"""The quiz: what is asked when, what is remembered, and that no answer is lost whatever happens to it."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from dataclasses import asdict, replace
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.cli import main
from minillm.course.interview import anki, cards, quiz
from minillm.course.interview.numbers import readings
from minillm.course.interview.recall import GRADES, Memory, Recall, RecallError, after

TODAY = date(2026, 3, 1)
DECK = "\n".join(
    f'[[card]]\nid = "02.{k}"\nlevel = "mid"\nquestion = "Question {k}?"\nanswer = "Answer {k} & <more>."\n' for k in (1, 2, 3)
)
NUMERIC = 'numeric = { expression = "6 * 7", expect = 42, within = 0.1, unit = "GB" }\nfollow_ups = ["Why?"]\n'


@pytest.fixture
def decks(tmp_path, monkeypatch):
    """Three cards, the last with a number, and a state folder of their own."""
    (tmp_path / "02_kv_cache.toml").write_text(DECK + NUMERIC)
    monkeypatch.setattr(cards, "cards_folder", lambda: tmp_path)
    monkeypatch.setenv("MINILLM_STATE", str(tmp_path / "state"))
    return cards.read_decks()


@pytest.fixture
def run(decks, monkeypatch, capsys):
    """Run `minillm quiz` with lines on standard input: (status, standard output, standard error)."""

    def run(lines, *argv):
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        status = main(["quiz", *argv])
        return status, *capsys.readouterr()

    return run


def state(tmp_path):
    return json.loads((tmp_path / "state" / "quiz.json").read_text())["cards"]


# --- FSRS -------------------------------------------------------------------------------------------------------------


def days(*grades):
    """Intervals after a sequence of grades, each given on the day the card was due."""
    recall, out, today = None, [], TODAY
    for grade in grades:
        recall = after(recall, grade, today)
        out.append((date.fromisoformat(recall.due) - today).days)
        today = date.fromisoformat(recall.due)
    return out


def test_intervals_are_those_of_fsrs():
    """FSRS-6 with its default weights: the first is the weight of the grade, 2.31 days for good."""
    assert days("good", "good", "good", "good") == [2, 11, 46, 163]
    assert days("easy", "easy", "easy") == [8, 66, 397] and days("hard", "hard", "hard") == [1, 3, 7]
    assert days(*["easy"] * 40)[-1] == 36_500, "a hundred years, not the end of the calendar"
    assert days("good", "good", "again", "good", "good") == [2, 11, 0, 2, 5], "forgotten: asked again the same day"


def test_who_waits_longer_and_still_knows_it_waits_longer_again():
    recall = after(None, "good", TODAY)
    early, late = (after(recall, "good", TODAY + timedelta(n)) for n in (1, 30))
    assert early.stability < after(recall, "good", TODAY + timedelta(2)).stability < late.stability


@given(st.lists(st.sampled_from(GRADES), max_size=20))
def test_a_card_never_leaves_the_calendar_nor_the_bounds(grades):
    recall = None
    for grade in grades:
        recall = after(recall, grade, TODAY)
        wait = (date.fromisoformat(recall.due) - TODAY).days
        assert (wait == 0) == (grade == "again") and wait <= 36_500
        assert Recall(**json.loads(json.dumps(asdict(recall)))) == recall, "the file gives back what was put in"


def test_a_clock_that_was_set_back_is_no_error():
    recall = after(after(None, "good", TODAY), "good", TODAY - timedelta(400))
    assert recall.last == "2025-01-25" and recall.stability > 0


OLD = {
    "02.1": {"due": "2026-03-01", "repetitions": 3, "interval_days": 15, "ease": 2.5, "lapses": 0},
    "02.2": {"due": "2026-02-27", "repetitions": 0, "interval_days": 0, "ease": 2.5, "lapses": 2},
    "02.3": {"due": "2026-04-08", "repetitions": 4, "interval_days": 38, "ease": 1.3, "lapses": 1},
    "99.9": {"due": "2026-03-09"},
}


def test_a_file_of_sm2_is_taken_over(tmp_path):
    """Dates and lapses are kept. On its day a card is stretched by its ease, as it would have been; the next file is ours."""
    path = tmp_path / "quiz.json"
    path.write_text(json.dumps({"version": 1, "cards": OLD}))
    memory = Memory(path, notice=pytest.fail)
    assert {id: (r.due, r.lapses) for id, r in memory.cards.items()} == {
        id: (old["due"], old.get("lapses", 0)) for id, old in OLD.items()
    }  # fmt: skip
    known, forgotten = memory.cards["02.1"], memory.cards["02.2"]
    assert (known.stability, known.last) == (15, "2026-02-14") and 1 <= known.difficulty <= 10
    assert after(known, "good", TODAY).stability == pytest.approx(15 * 2.5, rel=1e-3)
    assert forgotten.stability < 1 and memory.cards["02.3"].difficulty > known.difficulty, "a low ease is a hard card"
    memory.record("02.1", "good", TODAY)
    values = json.loads(path.read_text())
    assert values["version"] == 2 and values["cards"].keys() == OLD.keys() and values["cards"]["02.1"]["due"] == "2026-04-08"
    assert Memory(path, notice=pytest.fail).cards == memory.cards


def test_without_fsrs_one_line_says_how_to_get_it(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "fsrs", None)
    status, _, err = run("\n3\n")
    assert status == 2 and err == "minillm: the quiz needs fsrs, which is not installed: pip install fsrs\n"


def due_on(day):
    return Recall(day, day, 1.0, 5.0)


def test_due_cards_come_first_the_longest_overdue_before_the_rest(decks):
    deck = decks["02_kv_cache"]
    memory = {"02.2": due_on("2026-02-20"), "02.3": due_on("2026-02-10")}
    assert [c.id for c in quiz.choose(deck, memory, TODAY, 10)] == ["02.3", "02.2", "02.1"]
    assert [c.id for c in quiz.choose(deck, memory, TODAY, 10, only_due=True)] == ["02.3", "02.2"]
    assert [c.id for c in quiz.choose(deck, memory, TODAY, 1)] == ["02.3"]
    later = {"02.2": due_on("2026-03-01"), "02.3": due_on("2026-03-02")}
    assert [c.id for c in quiz.choose(deck, later, TODAY, 10, only_due=True)] == ["02.2"], "due on the day itself"


def graded(state):
    """The grade that each card, new before, was given today."""
    by_state = {after(None, grade, date.today()): grade for grade in GRADES}
    return {id: by_state[Recall(**fields)] for id, fields in state.items()}


# --- a session --------------------------------------------------------------------------------------------------------


def test_a_session_asks_notes_and_counts(run, tmp_path):
    status, out, _ = run("\n3\n\neasy\n\n3\n")
    assert status == 0 and "3 answers: 2 good, 1 easy." in out
    assert out.index("Question 1?") < out.index("Answer 1 & <more>.") < out.index("Question 2?")
    assert graded(state(tmp_path)) == {"02.1": "good", "02.2": "easy", "02.3": "good"}


def test_the_answer_is_not_shown_before_enter(run):
    _, out, _ = run("")
    assert "Question 1?" in out and "Answer 1" not in out and "0 answers." in out


def test_what_was_forgotten_comes_back_in_the_session(run, tmp_path):
    _, out, _ = run("\n1\n\n4\n", "--count", "1")
    assert out.count("\nQuestion 1?") == 2 and "once more" in out
    recall = Recall(**state(tmp_path)["02.1"])
    assert recall == after(after(None, "again", date.today()), "easy", date.today()) and recall.lapses == 1


def test_a_session_goes_on_where_input_ended(run, tmp_path):
    run("\n3\n\n")  # ends before the second grade
    assert list(state(tmp_path)) == ["02.1"]
    _, out, _ = run("\n3\n\n3\n")
    assert "Question 1?" not in out and "Question 2?" in out and list(state(tmp_path)) == ["02.1", "02.2", "02.3"]


def test_nothing_due_says_when(run):
    _, out, _ = run("", "--due")
    assert "No card is due. 3 have never been asked" in out
    run("\n3\n" * 3)
    for options in ([], ["--due"]):
        _, out, _ = run("", *options)
        day = (date.today() + timedelta(2)).isoformat()
        assert out.strip() == f"No card is due. Next: 3 cards in 2 days ({day})."


@pytest.mark.parametrize(("typed", "verdict", "grade"), [
    ("40", "Right: 42 GB", "good"), ("44 GB", "Right", "good"), ("~41.5gb", "Right", "good"),
    ("84", "2 times too large", "hard"), ("4.2", "10 times too small", "again"), ("0", "Far off", "again"),
    ("-42", "sign", "again"), ("many", "no number", "good"),
])  # fmt: skip
def test_a_typed_number_is_judged_and_enter_takes_the_judgement(run, tmp_path, typed, verdict, grade):
    run("\n3\n\n3\n")
    _, out, _ = run(f"{typed}\n" + "3\n" * (typed == "many") + "\n")
    assert verdict in out
    assert graded(state(tmp_path))["02.3"] == grade


@pytest.mark.parametrize(("text", "unit", "value"), [
    ("42,000", "", 42000), ("42k", "", 42000), ("42k tokens", "tokens", 42000), ("4.2e4", "", 42000), ("1_000", "", 1000),
    ("8B", "", 8e9), ("16 GB", "GB", 16), ("35 %", "%", 35), (".5", "", 0.5), ("-3", "", -3), ("1 234", "", 1234),
    ("", "", None), ("about forty", "", None), ("16 MB", "GB", 0.016), ("1.2.3", "", None), (",", "", None), ("e5", "", None),
    ("about 512", "", 512), ("1e3", "", 1000), ("1,024", "bytes", 1024), ("½", "", 0.5), ("3½", "", 3.5), ("1/4", "", 0.25),
    ("0.5 MiB", "KiB", 512), ("0.5 MiB", "bytes", 524288), ("512KiB", "MiB", 0.5), ("roughly 3.35 TB/s", "TB/s", 3.35),
    ("900 GB/s", "TB/s", 0.9), ("1.5 s", "ms", 1500), ("20ms", "s", 0.02), ("10^9", "", 1e9), ("2 million", "", 2e6),
    ("13 TFLOP/s", "GFLOP/s", 13000), ("3 times", "times", 3), ("one token", "tokens", None), ("5 s", "GB", None),
    ("5 GB", "GB/s", None), ("1 token", "tokens", 1), ("9^9999", "", None), ("1/0", "", None),
])  # fmt: skip
def test_numbers_as_people_write_them(text, unit, value):
    found = readings(text, unit)
    assert found[:1] == ([] if value is None else [pytest.approx(value)])


def test_kb_may_mean_1024_where_the_card_counts_in_kib(tmp_path, monkeypatch, capsys):
    assert readings("512KB", "KiB") == [500, 512] and readings("512KB", "bytes") == [512_000, 524_288]
    assert readings("512KB", "MB") == [pytest.approx(0.512)]


@given(st.text(max_size=12), st.sampled_from(["", "GB", "%"]))
def test_any_text_is_a_number_or_none(text, unit):
    assert all(isinstance(value, float) for value in readings(text, unit))


def test_enter_without_an_answer_records_nothing(run, tmp_path):
    _, out, _ = run("\n\n\n")
    assert "Say how well you knew it" in out and "0 answers." in out and not (tmp_path / "state" / "quiz.json").exists()
    _, out, _ = run("\n\n2\n", "--count", "1")
    assert graded(state(tmp_path)) == {"02.1": "hard"}, "as was typed in the end"


def test_a_session_ends_with_what_to_read_again_and_when(run):
    _, out, _ = run("\n1\n\n4\n42\n\n\n3\n")
    assert "4 answers: 1 again, 2 good, 1 easy." in out and "02_kv_cache: 2 of 3 known at once" in out
    assert "again 02.1: Question 1?" in out and "next: 1 card tomorrow (" in out


@pytest.mark.parametrize(("typed", "grade"), [
    ("1", "again"), ("a", "again"), ("Hard", "hard"), ("g", "good"), ("4", "easy"),
])  # fmt: skip
def test_grades_as_people_type_them(run, tmp_path, typed, grade):
    run(f"\nnonsense\n5\n12\n{typed}\n", "--count", "1")
    assert graded(state(tmp_path)) == {"02.1": grade}


def test_q_stops_and_keeps(run, tmp_path):
    status, out, _ = run("\n3\nq\n\n3\n")
    assert status == 0 and "1 answer: 1 good" in out and list(state(tmp_path)) == ["02.1"]


def test_lines_are_wrapped_each_by_itself_and_code_is_left(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    text = quiz.wrapped("one two three four five six seven eight\nshort\n    code stays as long as it is, all of it", "  ")
    assert text.splitlines()[0] == "  one two three four five six" and "  short" in text.splitlines()
    assert "      code stays as long as it is, all of it" in text.splitlines()


def test_list_shows_decks_and_cards(run):
    run("\n3\n")
    _, out, _ = run("", "--list")
    assert re.search(r"02_kv_cache +3 +2 +0", out)
    _, out, _ = run("", "--list", "--deck", "kv_cache")
    assert "02.2   mid     new         Question 2?" in out


@pytest.mark.parametrize(("options", "says"), [
    (["--deck", "kv_cahce"], "did you mean '02_kv_cache'"), (["--count", "0"], "--count must be at least 1, found 0"),
    (["--anki", "cards.csv"], ".tsv, .txt or .apkg"), (["--anki", f"{'n' * 300}.tsv"], "cannot be written"),
])  # fmt: skip
def test_a_mistake_is_one_line_and_status_2(run, tmp_path, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    status, _, err = run("", *options)
    assert status == 2 and says in err and err.count("\n") == 1 and err.startswith("minillm: ")


# --- the state file ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [
    "", "{", "[]", "null", '{"version": 1}', '{"version": 1, "cards": []}', '{"version": "x", "cards": {}}',
    '{"version": 1, "cards": {"02.1": {"due": "yesterday"}}}', '{"version": 1, "cards": {"02.1": {}}}',
    '{"version": 1, "cards": {"02.1": {"due": "2026-01-01", "ease": 0.1}}}',
    '{"version": 1, "cards": {"02.1": {"due": "2026-01-01", "repetitions": -1}}}',
    '{"version": 1, "cards": {"02.1": {"due": "2026-01-01", "colour": 1}}}', "[" * 100_000,
    '{"version": 1, "cards": {"02.1": {"due": "2026-01-01", "interval_days": 99999999999}}}',
    '{"version": 2, "cards": {"02.1": {}}}',
    '{"version": 2, "cards": {"02.1": {"due": "2026-01-01", "last": "2026-01-01", "stability": NaN, "difficulty": 5}}}',
    '{"version": 2, "cards": {"02.1": {"due": "2026-01-01", "last": "2026-01-01", "stability": 1, "difficulty": 0}}}',
])  # fmt: skip
def test_a_damaged_state_file_is_set_aside_with_a_notice(run, tmp_path, damage):
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "quiz.damaged-1.json").write_text("an earlier one")
    (folder / "quiz.json").write_text(damage)
    status, _, err = run("\n3\n")
    assert status == 0 and err.count("\n") == 1 and "quiz.damaged-2.json" in err
    assert (folder / "quiz.damaged-2.json").read_text() == damage
    assert (folder / "quiz.damaged-1.json").read_text() == "an earlier one" and list(state(tmp_path)) == ["02.1"]


def test_bytes_that_are_no_text_are_damage_too(tmp_path):
    (tmp_path / "quiz.json").write_bytes(b"\xff\xfe\x00")
    notices = []
    assert Memory(tmp_path / "quiz.json", notices.append).cards == {} and len(notices) == 1


def test_a_file_of_a_newer_version_is_refused_and_left_alone(tmp_path):
    text = '{"version": 3, "cards": {}}'
    (tmp_path / "quiz.json").write_text(text)
    with pytest.raises(RecallError, match="version 3, this program knows 2"):
        Memory(tmp_path / "quiz.json")
    assert (tmp_path / "quiz.json").read_text() == text


def test_two_quizzes_at_once_lose_nothing(tmp_path):
    one, two = Memory(tmp_path / "quiz.json"), Memory(tmp_path / "quiz.json")
    one.record("02.1", "good", TODAY)
    two.record("02.2", "good", TODAY)
    one.record("02.3", "good", TODAY)
    assert set(Memory(tmp_path / "quiz.json").cards) == {"02.1", "02.2", "02.3"}


def test_cards_of_decks_that_are_gone_are_remembered(run, tmp_path):
    Memory(tmp_path / "state" / "quiz.json").record("99.1", "good", TODAY)
    run("\n3\n")
    assert set(state(tmp_path)) == {"02.1", "99.1"}


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path, monkeypatch):
    memory = Memory(tmp_path / "quiz.json")
    memory.record("02.1", "good", TODAY)
    before = (tmp_path / "quiz.json").read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(RecallError, match="No space left"):
        memory.record("02.2", "good", TODAY)
    assert (tmp_path / "quiz.json").read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["quiz.json"]


def test_control_c_keeps_what_was_answered(decks, tmp_path):
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        pytest.skip("a shell starts its background jobs deaf to Control-C, and they pass it on")
    """A real process, interrupted while it waits for the second answer."""
    code = (
        "import sys; from pathlib import Path; from minillm.course.interview import cards\n"
        "cards.cards_folder = lambda: Path(sys.argv[1])\n"
        "from minillm.cli import main; sys.exit(main(['quiz']))"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], **pipes)
    process.stdin.write("\n3\n")
    process.stdin.flush()
    while "Question 2?" not in process.stdout.readline():
        assert process.poll() is None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in err and list(state(tmp_path)) == ["02.1"]


# --- Anki -------------------------------------------------------------------------------------------------------------


def test_the_text_for_anki_is_html_with_one_line_a_card(run, tmp_path):
    status, out, _ = run("", "--anki", str(tmp_path / "cards.tsv"))
    assert status == 0 and "3 cards" in out
    lines = (tmp_path / "cards.tsv").read_text(encoding="utf-8").splitlines()
    head, rows = [x for x in lines if x[0] == "#"], [x.split("\t") for x in lines if x[0] != "#"]
    assert "#guid column:1" in head and "#html:true" in head and len(rows) == 3
    assert rows[0][1:] == ["minillm::02_kv_cache", "Question 1?", "Answer 1 &amp; &lt;more&gt;.", "minillm mid"]
    assert rows[2][3].endswith("<hr>Follow-up: Why?") and not list(tmp_path.glob("*.part"))


def test_a_guid_depends_on_the_id_alone(decks):
    card = decks["02_kv_cache"][0]
    assert anki.guid(card) == anki.guid(replace(card, question="Other?", deck="other")) == "rGdAOZye2KYD"
    assert anki.guid(card) != anki.guid(decks["02_kv_cache"][1])


def test_lines_tabs_quotes_and_code_survive_as_html():
    text = anki.as_html('a "b"\n    code  x\n\ttab')
    assert text == f'a &quot;b&quot;<pre style="{anki.FIXED}">code  x</pre>\ttab'


def test_an_apkg_has_the_same_notes(run, tmp_path, decks):
    pytest.importorskip("genanki", reason="genanki is not installed: pip install 'minillm-course[anki]'")
    import sqlite3

    status, _, _ = run("", "--anki", str(tmp_path / "cards.apkg"))
    with zipfile.ZipFile(tmp_path / "cards.apkg") as archive:
        archive.extract("collection.anki2", tmp_path)
    database = sqlite3.connect(tmp_path / "collection.anki2")
    notes = database.execute("select guid, flds from notes order by id").fetchall()
    database.close()
    expected = [(anki.guid(c), f"{anki.front(c)}\x1f{anki.back(c)}") for c in decks["02_kv_cache"]]
    assert status == 0 and sorted(notes) == sorted(expected)


def test_without_genanki_the_error_says_how_to_get_it(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "genanki", None)
    status, _, err = run("", "--anki", str(tmp_path / "cards.apkg"))
    assert status == 2 and "minillm-course[anki]" in err and err.count("\n") == 1
    assert not list(tmp_path.glob("cards*"))


def test_anki_gets_emphasis_and_drawings_and_no_asterisks():
    text = "The *mean* length, **never** the maximum: `a*b` is 2 * 3 * 4.\n    key 0 1\n    tok x .\nSo `kv_bytes` counts."
    assert anki.as_html(text) == (
        "The <i>mean</i> length, <b>never</b> the maximum: <code>a*b</code> is 2 * 3 * 4."
        f'<pre style="{anki.FIXED}">key 0 1<br>tok x .</pre>So <code>kv_bytes</code> counts.'
    )


def test_no_card_reaches_anki_with_markup_in_it():
    """Over the real decks: a lonely asterisk or backtick is a slip of a card's author."""
    for deck in cards.read_decks().values():
        for card in deck:
            shown = re.sub(r"<(code|pre).*?</\1>", "", anki.front(card) + anki.back(card))
            assert not re.search(r"(?<!\s)\*|\*(?!\s)|`", shown), f"card {card.id}: {shown}"
