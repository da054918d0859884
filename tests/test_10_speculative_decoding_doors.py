"""Proposers by name, an EAGLE head in the engine, what a server counts, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from engine_help import SMALL, drain, engine, greedy, prompts, small
from speculative_help import Counting

from minillm import LLM
from minillm.cli.arguments import Parser
from minillm.cli.serve import build, configure
from minillm.errors import GGUFError, MiniLLMError, ModelError
from minillm.metrics.events import ACCEPTED, DRAFTED
from minillm.model.random_model import random_model
from minillm.server.metrics_page import MetricsPage, WatchedLog
from minillm.speculative.draft import EagleProposer
from minillm.speculative.draft_model import DraftModel
from minillm.speculative.eagle import Eagle, head_config, packed, save_eagle
from minillm.speculative.lookup import PromptLookup
from minillm.speculative.proposers import make_proposer
from minillm.speculative.suffix import SuffixDecoding
from minillm.training.eagle import head_parameters


def head_parts(llm, seed=0):
    rng = np.random.default_rng(seed)
    return {name: a + rng.normal(0, 0.05, a.shape).astype("f") for name, a in head_parameters(head_config(llm.config)).items()}


@pytest.mark.parametrize("backend", ["numpy", pytest.param("numba", marks=pytest.mark.slow)])
@pytest.mark.parametrize("gamma", [pytest.param(1, marks=pytest.mark.slow), 5])
def test_text_with_an_eagle_head_is_the_targets_own(backend, gamma):
    """Also where a text is preempted, and where its beginning comes from the prefix cache: then the head begins in the middle."""
    llm, texts = small(backend), prompts(6, longest=30)
    right = [llm.generate(prompt, greedy(30)).token_ids for prompt in texts]
    head = Eagle(llm.transformer, {name: packed(a, "F32") for name, a in head_parts(llm).items()})
    watched = Counting(EagleProposer(head))
    watched.observe = watched.proposer.observe
    made = engine(llm, proposer=watched, gamma=gamma, num_blocks=30, watermark=0, prefix="hash", max_tokens_per_step=24)
    for _ in range(2):
        numbers = [made.add(prompt, greedy(30)) for prompt in texts]
        found = drain(made)
        assert [[t for d in found[n, 0] for t in d.token_ids] for n in numbers] == right
    kinds = {e.kind for e in made.log.events}
    assert {"preempted", "cached"} <= kinds and watched.accepted + watched.rejected > 100 and not watched.proposer.texts


def test_proposers_by_name(tmp_path):
    llm = small()
    target, tokenizer = llm.transformer, llm.tokenizer
    assert isinstance(make_proposer("ngram", target, tokenizer), PromptLookup)
    assert isinstance(make_proposer("suffix", target, tokenizer), SuffixDecoding)
    drafts = make_proposer("self:1", target, tokenizer)
    assert isinstance(drafts, DraftModel) and drafts.model.config.n_layers == 1
    assert make_proposer("self", target, tokenizer).model.config.n_layers == 1
    path = tmp_path / "head.gguf"
    save_eagle(path, llm.config, head_parts(llm), kind="F32")
    assert isinstance(make_proposer(f"eagle:{path}", target, tokenizer), EagleProposer)
    tiny = LLM("tiny", "numpy")
    assert make_proposer("draft:tiny-draft", tiny.transformer, tiny.tokenizer).model.config.name != tiny.config.name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ngrams", "there is no proposer 'ngrams': did you mean 'ngram'"),
        ("draft", "there is no proposer 'draft'"),
        ("ngram:3", "there is no proposer 'ngram:3'"),
        ("self:x", "self:N takes a number of layers, found 'x'"),
        ("self:2", "layer 1 to 1 of the target, found 2"),
        ("eagle", "must be 'random model', found 'smollm2 135M'"),
        ("eagle:nowhere.gguf", "nowhere.gguf"),
        ("draft:tiny-draft", "vocabulary of its target: 512 tokens"),
        ("draft:nothing", "nothing"),
    ],
)
def test_what_is_no_proposer_of_this_model_is_refused(name, message):
    llm = small()
    with pytest.raises((ModelError, GGUFError), match=message):
        make_proposer(name, llm.transformer, llm.tokenizer)


def test_a_draft_of_the_same_size_with_other_tokens_is_refused():
    tiny = LLM("tiny", "numpy")
    other = LLM(random_model(replace(SMALL, vocab_size=tiny.config.vocab_size)))
    with pytest.raises(ModelError, match="other tokens than its target: token"):
        make_proposer("draft:tiny-draft", tiny.transformer, other.tokenizer)


def options(*given):
    parser = Parser(prog="serve")
    configure(parser)
    return parser.parse_args(["--model", "tiny", "--backend", "numpy", "--blocks", "64", *given])


def test_the_options_of_serve_reach_the_engine_and_its_metrics_page():
    llm = small()
    front, page, _ = build(options("--speculate", "ngram", "--draft-tokens", "3"), llm)
    made = front.engine
    assert isinstance(made.executor.proposer, PromptLookup) and made.executor.lookahead.gamma == 3
    made.add([7, 8, 9] * 5, greedy(30))
    drain(made)
    drafted = sum(e.tokens for e in made.log.events if e.kind == DRAFTED)
    accepted = sum(e.tokens for e in made.log.events if e.kind == ACCEPTED)
    text = page.render(front.stats()).decode()
    assert 0 < accepted < drafted
    assert f"minillm_spec_decode_num_draft_tokens_total {drafted}.0" in text
    assert f"minillm_spec_decode_num_accepted_tokens_total {accepted}.0" in text
    assert build(options(), llm)[0].engine.executor.proposer is None


@pytest.mark.parametrize("given", [("--draft-tokens", "3"), ("--speculate", "ngram", "--draft-tokens", "0")])
def test_draft_tokens_alone_or_none_are_refused(given):
    with pytest.raises(MiniLLMError, match="--draft-tokens goes with --speculate and is at least 1"):
        build(options(*given), small())


def test_a_page_counts_drafts():
    page, log = MetricsPage(), WatchedLog()
    log.page = page
    log.add(0, DRAFTED, 4)
    log.add(0, ACCEPTED, 0)
    assert "num_draft_tokens_total 4.0" in page.render({}).decode()
