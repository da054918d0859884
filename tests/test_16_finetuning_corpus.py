"""How the stories are made: facts that hold, tidy words, questions with answers, what is left out. The files: …_tiny.py."""

import json
import lzma
import random
import re
from functools import lru_cache

import pytest
from script_help import DATA, script

FOLDER = DATA / "corpus"


tell, build = script("corpus/tell.py"), script("corpus/build.py")
WORLD = tell.load()
NAMES = WORLD["girls"] + WORLD["boys"]


@lru_cache(maxsize=1)
def hundreds():
    return fresh(400)


def fresh(count, seed=3):
    return [tell.document(WORLD, seed, number) for number in range(count)]


def documents(count):  # told once for all tests that only read them
    return hundreds()[:count]


def test_a_document_follows_from_seed_and_number_alone():
    texts = [d.text for d in fresh(60)]
    assert texts == [d.text for d in documents(60)] and len(set(texts)) == 60
    assert texts != [d.text for d in fresh(60, seed=4)]


def test_every_plot_and_every_form_comes_up():
    found = documents(400)
    plots = {plot for d in found for plot in d.plots}
    assert plots == set(WORLD["plots"]) | set(WORLD["talks"]) and len(WORLD["plots"]) >= 24
    assert {d.form for d in found} == {"story", "dialogue", "chapters"}


def test_a_plot_has_beats_with_wordings_questions_and_a_moral():
    for name, plot in WORLD["plots"].items():
        assert len(plot["open"] + plot["day"] + plot["tell"] + plot["end"]) >= 8, name
        assert plot["ask"] and all(len(asked) == 3 for asked in plot["ask"]), name
        assert plot["moral"].strip() and (plot["branches"] or name == "sorry"), name


@pytest.mark.parametrize("numbers", [range(20), pytest.param(range(20, 100), marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", sorted(WORLD["plots"]))
def test_a_story_has_no_gaps_and_says_who_is_who(name, numbers):
    world = WORLD | {"plots": {name: WORLD["plots"][name]}}
    for number in numbers:
        made = tell.story(world, random.Random(number), asks=True)
        assert not re.search(r"[{}\[\]|@]", made.text), "every fact is filled in"
        first, facts = made.text[:300], made.facts
        assert facts["n"] in first and facts["n.kind"] in first and len({facts["n"], facts["f"], facts["t"]}) == 3
        assert facts["f"] in made.text and made.questions
        for question, answer, others, _ in made.questions:
            assert question.endswith("?") and tell.says(made.text, answer) and answer not in others


def test_the_facts_hold_to_the_end():
    """A thing that is lost has one colour in the whole story, and a name one gender."""
    world = WORLD | {"plots": {"lost": WORLD["plots"]["lost"]}}
    for number in range(100):
        made = tell.story(world, random.Random(number))
        bare = made.facts["o.bare"]
        colours = set(re.findall(rf"(\w+) {bare}\b", made.text)) & set(WORLD["lists"]["colours"])
        assert colours == {made.facts["o.colour"]}
        assert (made.facts["f.he"] == "she") == (made.facts["f"] in WORLD["girls"])


@pytest.mark.parametrize(
    ("rough", "expected"),
    [
        ("he saw a orange  cat. she ran", "He saw an orange cat. She ran."),
        ('"what is it?" asked Tom. it was a owl.', '"What is it?" asked Tom. It was an owl.'),
        ('"stop!" he said. "now we go."', '"Stop!" he said. "Now we go."'),
        ("Tom: so it is. / Ann: good.", "Tom: So it is.\nAnn: Good."),
        ("", ""),
    ],
)
def test_words_are_tidied(rough, expected):
    assert tell.tidy(rough) == expected


def test_alternatives_and_facts_are_filled_in_within_each_other():
    rng = random.Random(0)
    made = {tell.expand("[{x}|a [big|small] {y}]", {"x": "one\ntwo", "y": "[cat|dog]"}, {}, rng) for _ in range(200)}
    assert made == {"one", "two", "a big cat", "a big dog", "a small cat", "a small dog"}


def test_a_wording_that_repeats_is_drawn_again():
    before = set(tell.runs("the cat sat on the mat"))
    assert tell.stale("And the cat sat on the hat", before, "But")
    assert not tell.stale("And the cat lay on the mat", before, "But")
    assert tell.stale("And then", set(), "And") and not tell.stale("And then", set(), "But")
    assert tell.stale("Tom: Yes.", set(), "Tom:") and not tell.stale("Tom: Yes.", set(), "Ann:")


def test_nobody_answers_their_own_question():
    assert tell.ANSWERS_ITSELF.search("Tom: What is it?\nTom: A cat.")
    assert not tell.ANSWERS_ITSELF.search("Tom: What is it?\nAnn: A cat.\nAnn: A big one.")
    seams = [d.text for d in documents(400) if d.form == "dialogue"]
    assert len(seams) > 20 and not any(re.search(r"(?m)^(\w+): .*\n\1: ", text) for text in seams)


def test_who_goes_on_speaking_stays_on_the_line():
    assert tell.in_turn("Tom: Yes.\nTom: Good.\nTom: Come!\nAnn: No.") == "Tom: Yes. Good. Come!\nAnn: No."


def test_chapters_keep_their_people():
    for made in (d for d in documents(300) if d.form == "chapters"):
        parts = re.split(r"Chapter \d\. ", made.text)[1:]
        assert tell.CHAPTERS[0] <= len(parts) == len(made.plots) <= tell.CHAPTERS[1]
        assert all(made.facts["n"] in part and made.facts["f"] in part for part in parts)


def test_a_moral_stands_at_the_end_and_only_where_it_is_asked_for():
    assert all(tell.MORAL in d.text.split(". ")[-1] or tell.MORAL in d.text[-120:] for d in build.morals(WORLD, 1, 30))
    assert not any(tell.MORAL in d.text for d in documents(200))


# --- what is kept -----------------------------------------------------------------------------------------------------


def found_in(text, form="story"):
    facts = {"n": "Tom", "f": "Ben", "t": "Max", "e": "Dad", "n.he": "he", "f.he": "he", "t.he": "he", "e.he": "he"}
    long = " ".join(
        f"Tom saw {number} more of them near the {place}." for number in "abcdef" for place in ("lake", "hill", "mill")
    )
    return build.fault(tell.Document(form, [], facts, f"{text} {long}"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Tom the bear met Ben.", ""),
        ("Tom met Lily.", "a stranger"),
        ("Tom ate a café.", "characters"),
        ("Tom ran .", "characters"),
        ('"Oh no, said Tom.', "characters"),
        ("Tom ate a apple.", "a or an"),
        ("Tom was so so sad.", "a word twice"),
        ("Tom lost her hat.", "a pronoun"),
        ("Tom went to the sea. Tom went to the sea.", "a sentence twice"),
        ('"What is that," said Tom.', "a question mark"),
        ('"Let us go?" said Tom.', "a question mark"),
    ],
)
def test_each_fault_is_seen(text, expected):
    assert found_in(text) == expected


def test_what_has_a_fault_or_was_told_before_is_left_out_and_counted():
    made = documents(40)
    short = tell.Document("story", [], made[0].facts, "Too short.")
    kept, left_out = build.clean([*made, short, made[0]])
    assert left_out["length"] >= 1 and left_out["told before"] >= 1
    assert len(kept) + sum(left_out.values()) == 42 and len(kept) > 35


def test_a_held_out_question_has_four_answers_and_one_is_right():
    items = build.questions(WORLD, 1, 80)
    assert items == build.questions(WORLD, 1, 80)
    for item in items:
        assert len(set(item["choices"])) == 4 and tell.says(item["story"], item["choices"][item["answer"]])
        assert build.mentioned(item["story"], item["choices"]) >= 2, "a wrong answer is in the story too"
    assert {item["answer"] for item in items} == {0, 1, 2, 3}


def test_what_is_packed_is_counted(tmp_path):
    stories = ["Tom ran. He fell!", 'Lily said, "Oh no!" She sat.']
    build.pack(stories, tmp_path / "s.txt.xz")
    found = build.statistics(tmp_path / "s.txt.xz")
    assert (found["stories"], found["words"], found["sentences"]) == (2, 10, 4)
    from minillm.training.data import read_corpus, split

    learn, _ = split(read_corpus(tmp_path / "s.txt.xz"), "<|endoftext|>", 0.0)
    assert learn == stories


def test_the_shipped_files_are_what_the_scripts_make():
    """Their beginnings; `build.py --check` compares the rest with statistics.json."""
    made = {"stories": build.stories(WORLD, build.SEED, 50), "morals": build.morals(WORLD, build.SEED, 20)}
    known = json.loads((FOLDER / "statistics.json").read_text())
    for name, first in made.items():
        kept = [document.text for document in build.clean(first)[0]]
        shipped = read(name)
        assert shipped[: len(kept)] == kept and len(shipped) == known[name]["stories"]
    with lzma.open(FOLDER / "questions.jsonl.xz", "rt") as file:
        assert [json.loads(next(file)) for _ in range(10)] == build.questions(WORLD, build.SEED, 10)


def test_the_shipped_stories_have_no_moral_and_use_few_words():
    known = json.loads((FOLDER / "statistics.json").read_text())
    assert not any(tell.MORAL in s for s in read("stories")) and all(tell.MORAL in s for s in read("morals"))
    assert known["stories"]["different_words"] <= 2500 and known["stories"]["packed_bytes"] <= 6_000_000


@lru_cache
def read(name):
    from minillm.training.data import read_corpus, split

    return split(read_corpus(FOLDER / f"{name}.txt.xz"), "<|endoftext|>", 0.0)[0]
