"""The rule for samples, and reciting: a sound story passes, and each way to break it is found by its own name."""

import random
import tomllib

import numpy as np
import pytest
from script_help import DATA, script

WORLD = tomllib.loads((DATA / "corpus" / "grid.toml").read_text())
SOUND = (
    "Once upon a time there was a small cat named Lily. Her friend was Tom, a dog. They liked to be in the park all day long. "
    'Lily had a red kite, and she loved it more than all other things. "May I fly it?" asked Tom. "Yes," said Lily. '
    "But then the wind took the red kite away, over the trees and over the pond. They looked under every bush until it was late. "
    'At last Tom the dog saw it on a roof. "There it is!" he called. Lily hugged Tom, and they went home together under the moon.'
)


@pytest.fixture(scope="module")
def judge():
    return script("models/judge.py")


def test_a_sound_story_has_no_fault(judge):
    assert judge.faults(SOUND, True, WORLD) == []
    assert judge.faults(SOUND + "\n\nQ: Who saw it?\nA: Tom.", True, WORLD) == [], "questions behind a story are not of it"


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("Once upon a time there was a small cat named Lily.", "It was warm. The sun shone.", "begins"),
        ("under the moon.", "under the", "ends"),
        ("Lily hugged Tom", "Zoe hugged Tom", "people"),
        ("Tom", "Lily", "people"),
        ("Tom the dog saw", "Tom the pig saw", "kinds"),
        ("took the red kite", "took the blue kite and left the red kite, no, took the blue kite", "things"),
        ("At last", "They looked under every bush until it was late. At last", "once"),
    ],
)
def test_each_fault_is_named(judge, old, new, fault):
    assert old in SOUND
    assert fault in judge.faults(SOUND.replace(old, new), True, WORLD)


def test_a_story_that_was_cut_off_or_is_too_short_does_not_end(judge):
    assert judge.faults(SOUND, False, WORLD) == ["ends"]
    assert "ends" in judge.faults("Lily saw Tom. Tom saw Lily.", True, WORLD)
    assert "ends" in judge.faults("", True, WORLD)


def test_who_stands_only_in_the_beginning_is_lost(judge):
    cut = SOUND.index("But then")
    lost = SOUND[:cut] + SOUND[cut:].replace("Tom", "he").replace("Lily", "she")
    assert "people" in judge.faults(lost, True, WORLD)


def test_dialogues_and_chapters_are_no_stories(judge):
    assert judge.is_story(SOUND) and not judge.is_story("Max: Hello!\nFred: Hello.") and not judge.is_story("Chapter 1. Once")


def test_hardly_a_story_of_the_corpus_breaks_the_rule(judge):
    """They are sound by the way they are made. A rule that refuses them would be about something else."""
    from minillm.training.data import read_corpus

    documents = [d.strip() for d in read_corpus(DATA / "corpus" / "stories.txt.xz").split("<|endoftext|>")]
    chosen = random.Random(1).sample([d for d in documents if d and judge.is_story(d)], 400)
    assert sum(not judge.faults(d, True, WORLD) for d in chosen) >= 0.98 * 400


def test_reciting_is_the_share_of_runs_that_were_learned():
    recite = script("models/recite.py")
    words = random.Random(5)
    learned = [" ".join(f"w{words.randrange(50)}" for _ in range(200)) for _ in range(20)]
    new = [" ".join(f"n{i}" for i in range(40)), *(t.replace("w1", "v1") for t in learned[:3]), "too short"]
    found = recite.shares({"same": learned[:5], "new": new}, learned)
    assert list(found) == ["8", "16", "24"] and all(f["same"] == 1 for f in found.values())
    for n, shares in found.items():
        known = {tuple(t.split()[i : i + int(n)]) for t in learned for i in range(len(t.split()) - int(n) + 1)}
        asked = [tuple(t.split()[i : i + int(n)]) for t in new for i in range(len(t.split()) - int(n) + 1)]
        assert shares["new"] == pytest.approx(np.mean([run in known for run in asked]), abs=1e-4)
    assert 0 < found["8"]["new"] < 1
