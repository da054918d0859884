"""More requests in the same memory: pools sized by true bytes, preemptions counted; and the doors through which --kv comes in."""

import argparse
import copy
import json
from dataclasses import replace

import numpy as np
import pytest
from kv_help import QUANTIZED

from minillm import LLM, SamplingParams
from minillm.backends.invariant import invariant_model
from minillm.cache import kinds
from minillm.cli import main
from minillm.cli.serve import configure, scheduler_config
from minillm.costs.memory import KV_NAMES, kivi_window_bytes, kv_token_bytes
from minillm.engine.engine import Engine, default_config
from minillm.errors import MiniLLMError, ModelError, RequestError
from minillm.gateway.session import Part, Session
from minillm.llm import Conversation
from minillm.metrics.events import PREEMPTED
from minillm.model import load
from minillm.model.load import load_model
from minillm.model.random_model import TINY, random_model
from minillm.model.transformer import Segment
from minillm.quantization.kivi import KIVI
from minillm.quantization.kv_formats import FORMATS
from minillm.scheduler.scheduler import SchedulerConfig
from minillm.terminal import notice

HEADS_OF_64 = replace(TINY, n_layers=2, d_model=96, n_heads=4, n_kv_heads=2, d_head=64, d_ff=64, context_length=512)
HEADS_OF_32 = replace(HEADS_OF_64, d_head=32)


@pytest.fixture(scope="module")
def base():
    return LLM(random_model(HEADS_OF_64))


def with_kv(llm, kv):
    return LLM((llm.transformer, llm.tokenizer), kv=kv)


def serve_arguments(*options):
    parser = argparse.ArgumentParser()
    configure(parser)
    return parser.parse_args(options)


# --- how many tokens fit ------------------------------------------------------------------------------------------------------


def tokens_in(memory, config, kv):
    made = scheduler_config(serve_arguments("--kv-memory", memory, "--max-sequences", "8"), config, kv)
    return made.num_blocks * made.block_size


@pytest.mark.parametrize(("config", "least"), [(HEADS_OF_32, 3.2), (HEADS_OF_64, 3.5), (replace(HEADS_OF_64, d_head=128), 3.7)])
@pytest.mark.parametrize("kv", ["int4", "rot4"])
def test_four_bits_hold_at_least_3_2_times_the_tokens_of_float16(config, least, kv):
    assert tokens_in("40MiB", config, kv) >= least * tokens_in("40MiB", config, "float16")


@pytest.mark.parametrize("kv", KV_NAMES)
def test_a_pool_takes_the_memory_it_was_given_and_no_more(kv):
    memory = 4 * 2**20
    made = scheduler_config(serve_arguments("--kv-memory", "4MiB", "--max-sequences", "4"), HEADS_OF_64, kv)
    store = kinds.new_store(HEADS_OF_64, kv, made.num_blocks, made.block_size)
    windows = 4 * kivi_window_bytes(HEADS_OF_64, kv)
    block = made.block_size * kv_token_bytes(HEADS_OF_64, kv)
    assert memory - windows - block < store.nbytes <= memory - windows
    assert made.block_size == (32 if kv in KIVI else 16)


def test_blocks_that_cut_a_group_are_refused_before_anything_is_made():
    with pytest.raises(RequestError, match="multiple of 32, found 16"):
        scheduler_config(serve_arguments("--block-size", "16"), HEADS_OF_64, "kivi2")


# --- under load ---------------------------------------------------------------------------------------------------------------


def under_load(llm, memory, kv):  # -> tokens that the pool holds, preemptions, steps, answers
    """24 requests at once, each of 40 tokens and 40 more, in so many bytes of keys and values."""
    llm = with_kv(llm, kv)
    block = 16 * kv_token_bytes(llm.config, kv)
    engine = Engine(llm, SchedulerConfig(memory // block, 16, max_sequences=24, max_tokens_per_step=256))
    assert engine.executor.store.nbytes <= memory
    rng, steps = np.random.default_rng(0), 0
    prompts = [rng.integers(0, llm.config.vocab_size, 40).tolist() for _ in range(24)]
    params = SamplingParams(max_tokens=40, ignore_eos=True)
    requests = [engine.add(prompt, params) for prompt in prompts]
    answers = {request: engine.running[request].answers[0] for request in requests}
    while engine.has_work:
        engine.step()
        steps += 1
    preemptions = sum(e.kind == PREEMPTED for r in requests for e in engine.log.events_of(r))
    alone = [c.token_ids for c in llm.generate(prompts[:3], params)]
    assert [answers[r].token_ids for r in requests[:3]] == alone, "what was preempted says the same"
    return engine.config.num_blocks * 16, preemptions, steps


def test_four_bits_preempt_less_in_the_same_memory(base):
    memory = 32 * 16 * kv_token_bytes(base.config, "float16")  # 512 tokens in float16, of 1,920 that all requests have together
    tokens, preemptions, steps = zip(*(under_load(base, memory, kv) for kv in ("float16", "int4")), strict=True)
    assert tokens[1] >= 3.2 * tokens[0]
    assert preemptions[0] >= 10 and 4 * preemptions[1] <= preemptions[0], preemptions
    assert 2 * steps[1] <= steps[0], steps


# --- an error of one request --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kv", QUANTIZED)
def test_keys_that_are_no_numbers_end_their_request_alone(kv):
    llm = with_kv(LLM(random_model(replace(HEADS_OF_32, tied=False))), kv)
    llm.transformer.weights.embedding[77] = np.nan
    engine = Engine(llm, default_config(llm.config, kv))
    good, bad = (engine.add([*range(40), last], SamplingParams(max_tokens=8, ignore_eos=True)) for last in (5, 77))
    deltas = []
    while engine.has_work:
        deltas += engine.step()
    errors = {delta.request: delta.error for delta in deltas if delta.error}
    assert errors.keys() == {bad} and isinstance(errors[bad], MiniLLMError) and "finite numbers" in str(errors[bad])
    assert sum(len(d.token_ids) for d in deltas if d.request == good) == 8
    assert not engine.executor.windows.of, "nothing is kept of requests that are done"


# --- what goes back -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kv", ["int4", "kivi4"])
def test_a_session_answers_as_if_nothing_had_been_kept(base, kv):
    """KIVI's cache goes back to a group, and computes the rest again."""
    llm, rng = with_kv(base, kv), np.random.default_rng(0)
    manual, params = rng.integers(0, 500, 130).tolist(), SamplingParams(max_tokens=50, ignore_eos=True)
    session = Session(llm)
    for question in (rng.integers(0, 500, n).tolist() for n in (20, 7, 40)):
        found = session.generate([Part(manual, cache=True), Part(question)], params)
        assert found.completion.token_ids == llm.generate(manual + question, params).token_ids
    assert found.usage.cache_read_tokens == (128 if kv == "kivi4" else 130)
    found = session.generate([Part(manual[:70], cache=True), Part([1, 2, 3])], params)  # a breakpoint within what is kept
    assert found.completion.token_ids == llm.generate([*manual[:70], 1, 2, 3], params).token_ids
    assert found.usage.cache_read_tokens == (64 if kv == "kivi4" else 70)


@pytest.mark.parametrize("kv", ["int8", "kivi2"])
def test_a_conversation_keeps_what_it_can(base, kv):
    llm = with_kv(base, kv)
    talk, params = Conversation(llm), SamplingParams(max_tokens=70, ignore_eos=True)
    for said in ("what did the fox do that night in the wood", "and then"):
        "".join(talk.say(said, params))
        assert talk.last.token_ids == llm.generate(talk.last.prompt_token_ids, params).token_ids
    assert talk.reused >= 32
    talk.messages[-1]["content"] = "a fox"  # the answer is another: its tokens, and those behind it, are taken back
    "".join(talk.say("go on", params))
    assert talk.last.token_ids == llm.generate(talk.last.prompt_token_ids, params).token_ids and talk.reused >= 32


# --- a kernel that reads the rows where they lie ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["int4", "rot4"])
@pytest.mark.parametrize("paged", [False, True])
def test_a_backends_own_attention_gets_rows_in_pages_and_plain_queries(base, name, paged):
    seen = []

    def attention(q, k, v, table, n_k, made):
        seen.append((k.dtype, k.shape[1:], n_k, made.name, made.number))
        used = [pages[list(table)].reshape(-1, *pages.shape[2:])[:n_k] for pages in (k, v)]
        return made.rotate(base.transformer.ops.attention(made.rotate(q), *map(made.decode, used)))

    model = with_kv(base, name).transformer
    plain, ids = model.forward([Segment([*range(21)], 0, model.new_cache())])[0], [*range(21)]
    model.ops = replace(model.ops, kv_formats=(name,), quantized_attention=attention)
    cache = kinds.new_store(model.config, name, 8, 16).new_cache() if paged else model.new_cache()
    found = model.forward([Segment(ids, 0, cache)])[0]
    np.testing.assert_allclose(found, plain, atol=1e-5 * np.abs(plain).max())
    assert len(seen) == 2 and seen[0][0] == np.uint8 and seen[0][2:] == (21, name, FORMATS[name].number)
    seen.clear()
    model = invariant_model(model)  # which has one order of additions of its own
    model.forward([Segment(ids, 0, model.new_cache())])
    assert not seen


# --- by name ------------------------------------------------------------------------------------------------------------------


def test_a_name_that_is_none_and_heads_that_do_not_fit_are_refused_before_loading(tmp_path, base):
    with pytest.raises(MiniLLMError, match="float32, float16, int8, int4, fp8, kivi2, kivi4 or rot4, found 'int3'"):
        load_model("tiny", kv="int3")
    with pytest.raises(MiniLLMError, match="found 'int3'"):
        with_kv(base, "int3")
    with pytest.raises(MiniLLMError, match="power of two .* found 24"):
        with_kv(LLM(random_model(replace(HEADS_OF_64, d_head=24))), "rot4")
    with pytest.raises(ModelError):
        load_model(tmp_path / "none.gguf", kv="int4")


def test_a_model_with_another_kind_shares_its_weights(base):
    other = with_kv(base, "int8")
    assert (base.transformer.kv, other.transformer.kv) == ("float32", "int8")
    assert other.transformer.weights is base.transformer.weights
    assert copy.copy(other.transformer).new_cache().format.name == "int8"


@pytest.mark.parametrize("kv", KV_NAMES)
def test_generate_takes_kv(capsys, kv):
    assert main(["generate", "Once upon a time", "--kv", kv, "--max-tokens", "40", "--backend", "numpy", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["token_ids"]) == 40


def test_the_bytes_of_each_kind_are_shown(capsys):
    assert main(["inspect", "llama-3-8b", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["kv_bytes_per_token_as"]
    assert found["float16"] == 131072 and found["int4"] == 131072 * (4 + 32 / 128) / 16 and list(found) == list(KV_NAMES)


def test_a_backend_without_kernels_for_a_format_says_so(capsys, monkeypatch):
    monkeypatch.setattr(load, "compile_kernels", lambda transformer: None)
    notice.cache_clear()
    load_model("tiny", "numba", "kivi2")
    assert "numba has no kernels for keys and values in kivi2: they become float32 for each step" in capsys.readouterr().err
