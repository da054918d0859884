"""The models that come with the package: what they are, what they say, and that the card says so too."""

import json
from pathlib import Path

import numpy as np
import pytest
from script_help import DATA, script

from minillm import LLM, SamplingParams
from minillm.bench import pair
from minillm.bench import stories as questions
from minillm.bench.quality import probe
from minillm.formats.gguf import open_gguf
from minillm.model import zoo
from minillm.model.random_model import TINY, random_model
from minillm.model.sampling import distribution, draw
from minillm.speculative.verify import verify
from minillm.training.data import read_corpus, split

GOLDEN = json.loads((Path(__file__).parent / "golden" / "story_models.json").read_text())  # by record_story_models.py, llama.cpp


@pytest.fixture(scope="module")
def stories():
    return LLM("tiny")


@pytest.fixture(scope="module")
def draft():
    return LLM("tiny-draft")


@pytest.mark.parametrize(("name", "most_bytes", "parameters"), [("tiny", 8e6, (3e6, 4e6)), ("tiny-draft", 2e6, (0.5e6, 0.9e6))])
def test_the_files_are_small_in_sixteen_bits_and_every_block_format_fits(name, most_bytes, parameters):
    path = zoo.resolve(name)
    assert path == zoo.download(name) and path.stat().st_size <= most_bytes
    with open_gguf(path) as file:
        matrices = [t for t in file.tensors.values() if len(t.shape) == 2]
        assert {t.type.name for t in matrices} == {"F16"}
        assert {t.shape[1] % 256 for t in matrices} == {0}, "k-quants take rows of 256"
        assert parameters[0] <= sum(int(np.prod(t.shape)) for t in file.tensors.values()) <= parameters[1]


def test_target_and_draft_have_one_tokenizer(stories, draft):
    metadata = []
    for name in ("tiny", "tiny-draft"):
        with open_gguf(zoo.resolve(name)) as file:
            metadata.append({k: np.asarray(v).tolist() for k, v in file.metadata.items() if k.startswith("tokenizer.")})
    assert metadata[0] == metadata[1]


@pytest.mark.parametrize("name", ["tiny", "tiny-draft"])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_greedy_tokens_are_those_of_llama_cpp(name, backend):
    """llama.cpp rounds to 16 bits on its way, so where two logits are a hundredth apart it may choose the other one."""
    llm, ties, count = LLM(name, backend), 0, 0
    for prompt, recorded in GOLDEN[name].items():
        ids, tokens, clear = llm.tokenizer.encode(prompt), recorded["tokens"], np.array(recorded["leads"]) > 0.01
        assert ids == recorded["prompt_ids"]
        until = len(tokens) if clear.all() else int(clear.argmin())
        params = SamplingParams(max_tokens=len(tokens), ignore_eos=True)
        assert llm.generate(ids, params).token_ids[:until] == tokens[:until], prompt
        chosen = probe(llm, [*ids, *tokens[:-1]])[len(ids) - 1 :].argmax(axis=1)
        assert (chosen == tokens)[clear].all(), prompt
        ties, count = ties + int((~clear).sum()), count + len(tokens)
    assert count == 256 and ties <= 0.05 * count


def test_the_first_command_writes_a_story_with_nothing_downloaded(tmp_path, monkeypatch, capsys):
    from minillm.cli import main

    monkeypatch.setenv("MINILLM_CACHE", str(tmp_path / "empty"))
    assert main(["generate", "Once upon a time", "--backend", "numpy"]) == 0
    words = capsys.readouterr().out.split()
    corpus = set(read_corpus(DATA / "corpus" / "stories.txt.xz").split())
    assert len(words) > 40 and np.mean([w in corpus for w in words]) > 0.9
    assert not (tmp_path / "empty").exists()


def test_a_model_that_was_lost_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "embedded_folder", lambda: tmp_path)
    with pytest.raises(zoo.ModelError, match="'tiny' comes with minillm, but .*tiny.gguf is not there"):
        zoo.resolve("tiny")


def test_a_chat_is_a_text_written_in_turn(stories):
    ids = stories.chat([{"role": "user", "content": "Once upon a time "}, {"role": "assistant", "content": " there was"}])
    assert ids == stories.tokenizer.encode("Once upon a time there was")


# --- the card ---------------------------------------------------------------------------------------------------------


def test_the_card_says_what_its_figures_say():
    card = script("models/card.py")
    figures = json.loads((DATA / "models" / "figures.json").read_text())
    assert (DATA / "models" / "README.md").read_text() == card.card(figures)
    changed = json.loads(json.dumps(figures))
    changed["pair"]["models"]["tiny"]["perplexity"] *= 1.1
    assert card.card(changed) != card.card(figures)
    assert card.differences(figures, figures) == [] and len(card.differences(figures, changed)) == 1


@pytest.mark.slow
def test_perplexity_in_the_card_is_measured(stories, draft):
    figures = json.loads((DATA / "models" / "figures.json").read_text())
    _, held_out = split(read_corpus(DATA / "corpus" / "stories.txt.xz"), "<|endoftext|>", 0.03)
    assert len(held_out) == figures["pair"]["documents"]
    for llm in (stories, draft):
        told = figures["pair"]["models"][llm.config.name]["perplexity"]
        assert pair.perplexity(llm, held_out) == pytest.approx(told, rel=1e-3)


@pytest.mark.slow
def test_the_models_answer_questions_as_the_card_says(stories):
    figures = json.loads((DATA / "models" / "figures.json").read_text())["questions"]["tiny"]
    items = questions.read_items(DATA / "corpus" / "questions.jsonl.xz")
    assert len(items) == figures["items"] and figures["right"] > figures["chance"] + 10 * figures["error"]
    found = questions.run(stories, items[:200])
    assert found["right"] == pytest.approx(figures["right"], abs=4 * found["error"])


def test_far_positions_cost_no_more_than_near_ones():
    figures = json.loads((DATA / "models" / "figures.json").read_text())["positions"]["tiny"]
    assert figures["768 to 1023"] <= 1.1 * figures["256 to 512"]


@pytest.mark.slow
def test_the_models_know_who_is_who(stories, draft):
    """They once did not, at a fine perplexity: every name was as likely as the hero's, 1 in 32."""
    card, figures = script("models/card.py"), json.loads((DATA / "models" / "figures.json").read_text())["names"]
    _, held_out = split(read_corpus(DATA / "corpus" / "stories.txt.xz"), "<|endoftext|>", 0.03)
    assert card.who_is_who(draft, held_out) == figures["tiny-draft"] | {
        "probability": pytest.approx(figures["tiny-draft"]["probability"], rel=1e-3)
    }
    assert card.who_is_who(stories, held_out[:30])["probability"] > 0.6 and figures["tiny"]["probability"] > 0.7
    for name in ("Lily", "Tom", "Zoe", "Billy"):
        ids = stories.tokenizer.encode(f"Once upon a time there was a mouse named {name}. A cat lived next door. One day,")
        says = probe(stories, ids)[-1]
        assert int(says.argmax()) == stories.tokenizer.encode(f" {name}", bos=False)[0]


# --- how acceptance is counted ----------------------------------------------------------------------------------------


def test_a_model_accepts_all_that_it_proposed_itself(draft):
    prompts = [draft.tokenizer.encode("Once upon a time"), draft.tokenizer.encode("One day,")]
    for temperature in (0, 1):
        counted = pair.acceptance(draft, draft, prompts, temperature, new_tokens=20)
        assert counted["rate"] == 1 and counted["tokens_per_look"] == 5


def test_greedy_speculation_says_what_the_target_alone_says(stories, draft):
    prompt = stories.tokenizer.encode("Lily and Tom went to the")
    alone = stories.generate(prompt, SamplingParams(max_tokens=30)).token_ids
    text = list(prompt)
    rng = np.random.default_rng(0)
    while len(text) < len(prompt) + 30:
        proposed, q = [], []
        for _ in range(4):
            q.append(distribution(probe(draft, text + proposed)[-1], SamplingParams(temperature=0)))
            proposed.append(draw(q[-1], rng))
        p = [distribution(row, SamplingParams(temperature=0)) for row in probe(stories, text + proposed)[len(text) - 1 :]]
        text += verify(p, q, proposed, rng)
    assert text[len(prompt) :][: len(alone)] == alone


def test_what_comes_out_of_verification_is_distributed_as_the_target():
    rng = np.random.default_rng(4)
    p, q = rng.dirichlet(np.ones(6), size=3), rng.dirichlet(np.ones(6), size=2)
    first = np.zeros(6)
    for _ in range(40_000):
        proposed = [draw(row, rng) for row in q]
        first[verify(p, q, proposed, rng)[0]] += 1
    assert np.abs(first / first.sum() - p[0]).max() < 0.012  # five standard deviations


def test_perplexity_of_a_model_that_knows_nothing_is_its_vocabulary():
    transformer, tokenizer = random_model(TINY)
    transformer.weights.norm[:] = 0  # all logits equal
    assert pair.perplexity(LLM((transformer, tokenizer)), ["a few words", "and more of them"]) == pytest.approx(TINY.vocab_size)
