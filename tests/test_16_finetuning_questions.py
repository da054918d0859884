"""`minillm bench stories`: the score of an answer is its log-probability behind the story; what counts is counted right."""

import json
import math

import numpy as np
import pytest

from minillm.bench import stories
from minillm.errors import MiniLLMError
from minillm.model.transformer import Segment

ITEM = {
    "story": "Tom had a red ball. Lily had a blue kite.",
    "question": "What did Lily have?",
    "choices": ["A red ball.", "A blue kite.", "A kite.", "A long yellow rope that nobody saw."],
    "answer": 1,
    "about": "o",
}


def test_the_score_of_an_answer_is_that_of_its_text_in_one_pass(tiny):
    """The oracle computes story, question and answer anew, and multiplies probabilities one after another."""
    found = stories.scores(tiny, ITEM)
    prompt = tiny.tokenizer.encode(f"{ITEM['story']}\n\nQ: {ITEM['question']}\nA:")
    for choice, score in zip(ITEM["choices"], found, strict=True):
        ids = [*prompt, *tiny.tokenizer.encode(f" {choice}", bos=False)]
        (logits,) = tiny.transformer.forward([Segment(ids, 0, tiny.transformer.new_cache(), "all")])
        expected = 0.0
        for at in range(len(prompt), len(ids)):
            row = np.exp(logits[at - 1].astype(np.float64) - logits[at - 1].max())
            expected += math.log(row[ids[at]] / row.sum())
        assert score == pytest.approx(expected, abs=1e-3)
    assert len(set(found)) == 4


def test_right_answers_are_counted_by_what_is_asked(tiny, monkeypatch):
    abouts = ["n", "f", "t", "n.likes", "f.food", "g.colour", "spot", "n"]
    items = [ITEM | {"about": about, "answer": number % 4} for number, about in enumerate(abouts)]
    monkeypatch.setattr(stories, "scores", lambda llm, item: [-5.0, -2.0, -3.0, -4.0])  # it always takes the second
    result = stories.run(tiny, items)
    assert result["items"] == 8 and result["chance"] == 0.25
    assert result["right"] == 2 / 8  # answers 1 and 5
    assert result["error"] == pytest.approx(math.sqrt(0.25 * 0.75 / 8))
    kinds = {kind: (found["items"], found["right"]) for kind, found in result["by_kind"].items()}
    assert kinds == {"who": (4, 0.25), "likes": (1, 0.0), "food": (1, 0.0), "colour": (1, 1.0), "plot": (1, 0.0)}
    assert "25.0% ± 15.3%" in stories.table(result) and "a guess is right in 25%" in stories.table(result)


def test_chance_follows_the_number_of_choices(tiny, monkeypatch):
    monkeypatch.setattr(stories, "scores", lambda llm, item: [0.0] * len(item["choices"]))
    items = [ITEM | {"choices": ["a.", "b."], "answer": 0}, ITEM]
    assert stories.run(tiny, items)["chance"] == pytest.approx((1 / 2 + 1 / 4) / 2)


@pytest.mark.parametrize(
    "wrong",
    [
        "no JSON",
        '"a text"',
        json.dumps({name: value for name, value in ITEM.items() if name != "story"}),
        json.dumps(ITEM | {"answer": 4}),
        json.dumps(ITEM | {"answer": -1}),
        json.dumps(ITEM | {"answer": "1"}),
        json.dumps(ITEM | {"choices": [1, 2, 3, 4]}),
        json.dumps(ITEM | {"choices": "abcd"}),
    ],
)
def test_a_line_that_is_no_question_is_named(tmp_path, wrong):
    (tmp_path / "items.jsonl").write_text(json.dumps(ITEM) + "\n" + wrong + "\n")
    with pytest.raises(MiniLLMError, match=r"line 2: a question is a JSON object with story, question"):
        stories.read_items(tmp_path / "items.jsonl")


def test_no_question_is_an_error(tiny):
    with pytest.raises(MiniLLMError, match="no question"):
        stories.run(tiny, [])
