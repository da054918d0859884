"""How the stories were made: outlines, where a sentence ends, what a fault is, what is left out. The files: …_tiny.py."""

import json
import re
import tomllib
from types import SimpleNamespace

import pytest
from script_help import DATA, script

FOLDER = DATA / "corpus"


tell, build = script("corpus/tell.py"), script("corpus/build.py")
GRID = tomllib.loads((FOLDER / "grid.toml").read_text())


def test_an_outline_follows_from_seed_and_number_alone():
    outlines = [tell.outline(GRID, 1, n, False) for n in range(50)]
    assert outlines == [tell.outline(GRID, 1, n, False) for n in range(50)]
    assert outlines != [tell.outline(GRID, 2, n, False) for n in range(50)]
    assert len({o[0] for o in outlines}) == len(GRID["plots"]), "every plot comes up"


@pytest.mark.parametrize("moral", [False, True])
def test_an_outline_has_no_gaps_and_fits_its_plot(moral):
    plots = {p["name"]: len(p["beats"]) for p in GRID["plots"]}
    for number in range(300):
        plot, ask, beats, names, unfit = tell.outline(GRID, 3, number, moral)
        assert len(beats) == plots[plot] + moral and len(names) == 2
        assert not re.search(r"[{}]", ask + "".join(beats))
        assert beats[-1].startswith("The moral of the story is:") == moral
        girls = names & set(GRID["girls"])
        assert unfit == ({"girls": set(), "none": tell.SHE, "both": tell.HE}[{0: "none", 1: "girls", 2: "both"}[len(girls)]])


@pytest.mark.parametrize(
    ("text", "start", "expected"),
    [
        ("Tom ran. Then", 0, "Tom ran."),
        ("Tom ran", 0, None),
        ("Tom ran. He saw a cat! And", 9, "Tom ran. He saw a cat!"),
        ('Ben said, "Oh no. My ball!" He cried.', 11, 'Ben said, "Oh no. My ball!"'),
        ('Ben said, "I can," and smiled. He', 11, 'Ben said, "I can," and smiled.'),
        ('"Oh no!" said Tom. "I lost', 19, None),
        ('"Oh no!" said Tom. "I lost it." Then', 20, '"Oh no!" said Tom. "I lost it."'),
        ("", 0, None),
    ],
)
def test_a_sentence_ends_where_it_ends(text, start, expected):
    assert tell.sentence(text, start) == expected


STORY = SimpleNamespace(
    names={"Tom", "Lily"}, pronouns=set(), text="Tom the bear went to the big park with a red ball. He was happy."
)


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ("But then, he saw a small cat.", ""),
        ("But then, Lily came and said hello.", ""),
        ("But then, Sammy came and said hello.", "a stranger"),
        ("But then, he ate 3 cakes.", "characters"),
        ("But then, he ate a café.", "characters"),
        ("But then,", "length"),
        ("But then, " + "he ran and ran and then he sat and then he ate and so on and on and on he went.", "length"),
        ("But then, he had a beer.", "a bad word"),
        ("But then, he was so so happy.", "a word twice"),
        ("But then, he was very very happy.", ""),
        ("But then, cake and cake or cake or a cake came.", "a word too often"),
        ("But then, he saw Mr.", "a stranger"),
        ("But then, he went to the big park with a red hat.", "said before"),
    ],
)
def test_each_fault_is_seen(new, expected):
    assert tell.fault(new, "But then,", STORY) == expected


def test_a_pronoun_that_fits_no_character_is_a_fault():
    story = SimpleNamespace(names={"Lily", "Anna"}, pronouns=tell.HE, text="")
    assert tell.fault("Lily lost his hat.", "Lily", story) == "a pronoun"
    assert tell.fault("Lily lost her hat.", "Lily", story) == ""


class ScriptedEngine:
    """Ends sentences from a list, a letter a step; as much of the engine as the teller uses."""

    def __init__(self, answers):
        self.answers, self.open, self.asked, self.seeds = iter(answers), {}, 0, []

    def add(self, prompt, params):
        self.asked += 1
        self.seeds.append(params.seed)
        self.open[self.asked] = next(self.answers)
        return self.asked

    def step(self):
        deltas = []
        for request, text in list(self.open.items()):
            self.open[request] = text[1:]
            deltas.append(SimpleNamespace(request=request, text=text[:1], finish_reason=None if text[1:] else "length"))
            if not text[1:]:
                del self.open[request]
        return deltas

    def cancel(self, request):
        self.open.pop(request, None)


def teller(answers, moral=False):
    made = object.__new__(tell.Teller)
    tokenizer = SimpleNamespace(encode=lambda text, bos: list(text.encode()))
    made.llm = SimpleNamespace(tokenizer=tokenizer, chat=lambda messages: [0])
    made.engine, made.grid, made.seed, made.moral = ScriptedEngine(answers), GRID, 1, moral
    made.story_of, made.tokens, made.given_up = {}, 0, 0
    return made


def test_a_story_is_its_beginnings_each_ended_once_and_nothing_behind_the_end():
    beats = tell.outline(GRID, 1, 0, False)[2]
    ends = [f" thing number {x}" + ('."' if b.count('"') % 2 else ".") for b, x in zip(beats, "abcdefghij", strict=False)]
    made = teller([end + " And more" for end in ends])
    (story,) = made.tell([0], together=1)
    assert story.text == " ".join(map("".join, zip(beats, ends, strict=True))) and made.given_up == 0


def test_a_moral_is_asked_for_in_one_way_and_told_in_another():
    beats = tell.outline(GRID, 1, 0, True)[2]
    ends = [f" thing number {x}" + ('."' if b.count('"') % 2 else ".") for b, x in zip(beats, "abcdefghij", strict=False)]
    (story,) = teller(ends, moral=True).tell([0], together=1)
    assert "So now we know: " in story.text and "moral" not in story.text


def test_a_fault_is_tried_again_with_another_seed_and_four_end_the_story():
    good = teller([" 1."] * 3 + [" went home to bed."] * 20)
    good.begin(0)
    while good.engine.asked < 5 and not good.step():
        pass
    assert len(set(good.engine.seeds[:5])) == 5, "three faults, then a sentence, then the next one"
    bad = teller([" 1."] * 4)
    assert list(bad.tell([0], together=1)) == [] and bad.given_up == 1 and bad.engine.asked == tell.TRIES


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_rare_words_and_repetitions_are_left_out_and_counted():
    looks = ("red", "big", "sad")
    plain = [f"the {a} cat saw the {b} dog near the old tree and went home" for a in looks for b in looks]
    again = plain[0] + " again again again"
    kept, left_out = build.clean([*plain, "the red cat saw a zyzzyva", again, plain[1]])
    assert left_out["a rare word"] >= 1 and left_out["told before"] >= 1
    assert len(kept) + sum(left_out.values()) == len(plain) + 3
    assert not any("zyzzyva" in text for text in kept) and len(set(kept)) == len(kept)
    assert build.clean(list(reversed([*plain, again])))[0] == build.clean([*plain, again])[0], "the order told does not matter"


THINGS = [thing.partition(" ")[2] for thing in GRID["things"]]
COUPLES = (("Tom", "Lily"), ("Sue", "Amy"))
NAMED = [f'{n} the bear saw {f}. "Oh, {n}!" said {f}. It was {n}\'s {thing}.' for n, f in COUPLES for thing in THINGS]


def names_in(text):
    return re.findall(rf"\b(?:{'|'.join(GRID['girls'] + GRID['boys'])})\b", text)


def test_a_retold_story_has_other_people_and_nothing_else_is_other():
    told = build.retell(NAMED, 4, GRID)
    pattern = rf"\b(?:{'|'.join(GRID['girls'] + GRID['boys'])})\b"
    plots = {re.sub(pattern, "X", text): text for text in NAMED}
    assert {re.sub(pattern, "X", text) for text in told} == set(plots) and set(NAMED) <= set(told)
    for text in told:
        n, f, again, friend, owner = names_in(text)
        assert n == again == owner != f == friend, "who is who stays"
        assert {name in GRID["girls"] for name in (n, f)} in ({True, False}, {True}), "girls stay girls"
    assert build.retell(NAMED, 1, GRID) == sorted(NAMED, key=build.digest)
    assert told == build.retell(NAMED, 4, GRID)


def test_no_telling_of_a_story_stands_on_both_sides():
    from minillm.training.data import split

    stories = [text.replace("bear", kind) for text in NAMED[: len(THINGS)] for kind in GRID["kinds"]]
    learn, judge = split(build.SEPARATOR.join(build.retell(stories, 4, GRID)), "<|endoftext|>", build.HELD_OUT)
    assert len(judge) >= 3 and len(learn) > 3 * (len(stories) - len(judge))
    sides = [{re.sub("|".join(GRID["girls"] + GRID["boys"]), "X", text) for text in side} for side in (learn, judge)]
    assert not sides[0] & sides[1]


def test_what_is_packed_is_counted(tmp_path):
    stories = ["Tom ran. He fell!", 'Lily said, "Oh no!" She sat.']
    build.pack(stories, tmp_path / "s.txt.xz")
    found = build.statistics(tmp_path / "s.txt.xz")
    assert (found["stories"], found["words"], found["sentences"]) == (2, 10, 4)
    from minillm.training.data import read_corpus, split

    learn, _ = split(read_corpus(tmp_path / "s.txt.xz"), "<|endoftext|>", 0.0)
    assert learn == stories


def test_the_shipped_stories_have_no_moral_and_the_others_have():
    text = {name: read(name) for name in ("stories", "morals")}
    assert not any("So now we know:" in s for s in text["stories"])
    assert all("So now we know:" in s for s in text["morals"])
    told = json.loads((FOLDER / "statistics.json").read_text())
    assert {name: len(stories) for name, stories in text.items()} == {name: told[name]["stories"] for name in text}


def read(name):
    from minillm.training.data import read_corpus, split

    return split(read_corpus(FOLDER / f"{name}.txt.xz"), "<|endoftext|>", 0.0)[0]
