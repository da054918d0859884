"""Several adapters in one batch: each request says what it says alone, and what the merged model says."""

import itertools
import json
import pathlib
from argparse import ArgumentParser
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from engine_help import SMALL, Spoiled, drain, engine, greedy, prompts, used
from golden import tiny_models
from lora_help import random_adapter
from server_help import FakeEngine, call, post, running

from minillm import LLM
from minillm.backends import get_backend
from minillm.backends.invariant import invariant_model
from minillm.cli import main
from minillm.engine.async_engine import AsyncEngine
from minillm.errors import MiniLLMError, ModelError, RequestError
from minillm.formats.blocks import BLOCK_TYPES
from minillm.llm import Conversation
from minillm.metrics.events import CACHED, PREEMPTED
from minillm.model import adapters, transformer
from minillm.model.adapter_files import save_gguf, save_peft
from minillm.model.random_model import byte_tokenizer, random_model, random_tensor, tensor_shapes
from minillm.model.transformer import Segment, Transformer
from minillm.model.weights import StoredTensor, load_weights
from minillm.server.app import Served
from minillm.training.lora import merge

GOLDEN = pathlib.Path(__file__).with_name("golden")
NAMES = (None, "moral", "rhyme")
BACKENDS = ("numpy", "numba")
ADAPTERS = {
    "moral": random_adapter(SMALL, 3, 6.0, ("attn_q", "attn_v"), seed=1, strength=2.0),
    "rhyme": random_adapter(SMALL, 5, 2.0, seed=2, strength=1.0),
}


@cache
def served(backend):
    """The model with two adapters apart."""
    return LLM(random_model(SMALL, backend=backend), adapters=ADAPTERS)


@cache
def merged(name, backend):
    """The model with one adapter in its weights, or with none."""
    weights = {n: random_tensor(n, shape, 0) for n, shape in tensor_shapes(SMALL).items()}
    weights, ops = merge(weights, ADAPTERS[name]) if name else weights, get_backend(backend)

    def tensor(name):
        w = weights.get(name)
        return None if w is None else StoredTensor(w.view(np.uint8).reshape(-1), BLOCK_TYPES["F32"], w.shape)

    return LLM((Transformer(SMALL, load_weights(SMALL, tensor, ops), ops), byte_tokenizer(SMALL.vocab_size)))


@cache
def expected(backend, count=9, tokens=12):  # -> [(adapter, prompt, tokens that the merged model says)]
    """No two best tokens are nearer than a thousand roundings; and the adapters do change what is said."""
    made = []
    for i, prompt in enumerate(prompts(count)):
        said = {}
        for name in NAMES:
            found = merged(name, backend).generate(prompt, greedy(tokens, logprobs=2))
            for record in found.logprobs:
                best, second = sorted(record.top.values(), reverse=True)
                assert best - second > 1e-3, f"prompt {i}, {name}: choose another seed, {best - second}"
            said[name] = found.token_ids
        assert len(set(map(tuple, said.values()))) == 3, f"prompt {i}: the adapters make no difference"
        made.append((NAMES[i % 3], prompt, said[NAMES[i % 3]]))
    return made


@pytest.mark.parametrize("backend", BACKENDS)
def test_alone_each_says_what_the_merged_model_says(backend):
    for name, prompt, right in expected(backend):
        assert served(backend).generate(prompt, greedy(12), adapter=name).token_ids == right
        assert "".join(served(backend).stream(prompt, greedy(12), adapter=name)) == served(backend).tokenizer.decode(right)
    names, asked, right = zip(*expected(backend), strict=True)
    together = served(backend).generate(list(asked), greedy(12), adapter=list(names))
    assert [completion.token_ids for completion in together] == list(right)


LOADS = {
    "all at once": {},
    "chunked prefill": {"max_tokens_per_step": 7, "max_sequences": 4},
    "recompute": {"num_blocks": 12, "preemption": "recompute"},
    "swap": {"num_blocks": 12, "preemption": "swap", "host_blocks": 24},
    "radix": {"prefix": "radix", "max_sequences": 3},
    "static": {"policy": "static", "max_sequences": 3},
}


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_of_base_and_two_adapters_says_what_each_says_alone_and_merged(backend, load):
    made = engine(served(backend), **LOADS[load])
    made.executor.transformer = spy = Routes(made.executor.transformer)
    asked = {made.add(prompt, greedy(12), adapter=name): (name, right) for name, prompt, right in expected(backend)}
    found = drain(made)
    for request, (name, right) in asked.items():
        assert [d.token_ids[0] for d in found[request, 0]] == right, f"{name} in a batch"
    assert any(len(set(step)) == 3 for step in spy.seen), "no step had rows of all three"
    preempted = any(e.kind == PREEMPTED for r in asked for e in made.log.events_of(r))
    assert preempted == (load in ("recompute", "swap"))
    assert not made.executor.adapters and used(made) == 0


class Routes(Spoiled):
    """Notes the adapters of each step."""

    def __init__(self, transformer):
        super().__init__(transformer, spoil=lambda segments: self.seen.append([s.adapter for s in segments]))
        self.seen = []


@pytest.mark.parametrize("prefix", ["hash", "radix"])
def test_adapters_share_no_pages_with_each_other_or_with_the_base(prefix):
    """One prompt for all: found in the cache by those with the same adapter alone. A shared page would change what is said."""
    llm, prompt = served("numpy"), np.random.default_rng(5).integers(0, 512, 40).tolist()
    right = {name: merged(name, "numpy").generate(prompt, greedy(8)).token_ids for name in NAMES}
    assert len(set(map(tuple, right.values()))) == 3
    made = engine(llm, prefix=prefix, num_blocks=200)
    for again, name in itertools.product((False, True), NAMES):
        request = made.add(prompt, greedy(8), adapter=name)
        assert [d.token_ids[0] for d in drain(made)[request, 0]] == right[name], name
        cached = [e.tokens for e in made.log.events_of(request) if e.kind == CACHED]
        assert cached == ([36] if again else []), (name, again)
    salted = made.add(prompt, greedy(8), adapter="moral", salt="tenant")
    drain(made)
    assert not [e for e in made.log.events_of(salted) if e.kind == CACHED]


def test_a_salt_cannot_pass_for_an_adapter():
    """("moral", None) as a caller's salt is not the salt that the engine makes of the adapter."""
    prompt = np.random.default_rng(5).integers(0, 512, 40).tolist()
    made = engine(served("numpy"), prefix="hash", num_blocks=200)
    made.add(prompt, greedy(2), adapter="moral")
    drain(made)
    for salt in ("moral", ("moral", None), (None, ("moral", None))):
        request = made.add(prompt, greedy(2), salt=salt)
        drain(made)
        assert not [e for e in made.log.events_of(request) if e.kind == CACHED], salt


def test_all_answers_to_a_request_have_its_adapter():
    made, (name, prompt, right) = engine(served("numpy"), num_blocks=30), expected("numpy")[2]
    others = [made.add(p, greedy(12)) for _, p, _ in expected("numpy")[:3]]
    request = made.add(prompt, greedy(12), n=3, adapter=name)
    found = drain(made)
    assert [[d.token_ids[0] for d in found[request, i]] for i in range(3)] == [right] * 3
    assert all(len(found[other, 0]) == 12 for other in others)


def test_a_step_without_an_adapter_goes_the_way_it_always_went(monkeypatch):
    monkeypatch.setattr(transformer, "with_adapters", None)  # who calls it fails
    made = engine(served("numpy"))
    request = made.add([1, 2, 3], greedy(4))
    assert len(drain(made)[request, 0]) == 4
    failing = made.add([1, 2, 3], greedy(4), adapter="moral")
    assert drain(made)[failing, 0][-1].finish_reason == "error" and not made.executor.adapters


def test_half_a_layer_without_an_adapter_is_the_backends_own():
    """Of NumPy. Numba's kernels take adapters in themselves: tests/test_16_finetuning_kernels.py."""
    ops, calls = get_backend("numpy"), []

    def counted(name):
        def call(*arguments, **named):
            calls.append(name)
            return getattr(ops, name)(*arguments, **named)

        return call

    names = ("linear", "attention_inputs", "add_linear", "add_feed_forward")
    counting = replace(ops, **{name: counted(name) for name in names})
    llm = served("numpy")
    layers = llm.transformer.weights.layers
    x = np.random.default_rng(0).standard_normal((3, SMALL.d_model)).astype(np.float32)
    own, routed = adapters.with_adapters(counting, layers, [(llm.adapters["moral"], np.array([1]))])
    own.add_feed_forward(x, routed[0], SMALL)
    own.add_linear(x, np.zeros((3, 96), np.float32), routed[0].o)
    assert calls == ["add_feed_forward", "add_linear"] and routed[0].o is layers[0].o and routed[0].gate is layers[0].gate
    calls.clear()
    angles = ops.rope_angles(np.arange(3), llm.transformer.frequencies)
    own.attention_inputs(x, routed[0], SMALL, *angles)
    assert calls == ["attention_inputs"] + ["linear"] * 7  # q, k, v, and both thin ones of q and v


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_the_rows_that_asked_are_touched(backend):
    """In a mixed batch of a few prompts the base's logits are those without adapters, and the others' those of the merged."""
    llm, three = served(backend), prompts(5)[2:5]
    model = llm.transformer
    segments = [Segment(p, 0, model.new_cache(), "all", llm.adapter(n)) for n, p in zip(NAMES, three, strict=True)]
    for name, prompt, found in zip(NAMES, three, model.forward(segments), strict=True):
        other = merged(name, backend).transformer
        right = other.forward([Segment(prompt, 0, other.new_cache(), "all")])[0]
        assert abs(found - right).max() < 1e-4 * abs(right).max(), name


@pytest.mark.parametrize("backend", BACKENDS)
def test_over_packed_weights_an_adapter_adds_what_it_adds_over_floats(backend, tmp_path):
    """Matrices of a file in 4 and 8 bits: the kernels' own, with the thin products beside them."""
    tiny_models.write_tiny("mixed", tmp_path / "mixed.gguf")
    plain = LLM(tmp_path / "mixed.gguf", backend="numpy")
    ids, parts = list(range(5, 30)), {}
    for matrices in (("attn_q", "attn_v"), ("attn_v",), ("attn_k",), ("ffn_down",), ("attn_output", "ffn_up"), ("ffn_gate",)):
        adapter = random_adapter(plain.config, 4, 8.0, matrices)
        for llm in (LLM(tmp_path / "mixed.gguf", backend=b, adapters={"a": adapter}) for b in ("numpy", backend)):
            cache = llm.transformer.new_cache()
            rows = [llm.transformer.forward([Segment(ids[:24], 0, cache, "all", llm.adapter("a"))])[0]]
            rows += llm.transformer.forward([Segment(ids[24:], 24, cache, "all", llm.adapter("a"))])
            parts[llm.transformer.ops.name] = np.concatenate(rows)
        right, found = parts["numpy"], parts[backend]
        without = plain.transformer.forward([Segment(ids, 0, plain.transformer.new_cache(), "all")])[0]
        assert abs(found - right).max() < 2e-3 * abs(right).max()
        assert abs(right - without).max() > 0.1 * abs(right).max()


@pytest.mark.parametrize("backend", BACKENDS)
def test_invariant_logits_are_the_same_bits_beside_any_adapter(backend):
    llm = served(backend)
    model, three = invariant_model(llm.transformer), prompts(5)[2:5]
    for shift in range(3):
        names = [NAMES[(i + shift) % 3] for i in range(3)]
        segments = [Segment(p, 0, model.new_cache(), "all", llm.adapter(n)) for n, p in zip(names, three, strict=True)]
        for name, prompt, found in zip(names, three, model.forward(segments), strict=True):
            alone = model.forward([Segment(prompt, 0, model.new_cache(), "all", llm.adapter(name))])[0]
            assert (found == alone).all(), name


@pytest.mark.parametrize("backend", BACKENDS)
def test_invariant_logits_of_packed_weights_are_the_same_bits_beside_an_adapter(backend, tmp_path):
    """A half of a layer that is fused alone, and taken apart beside an adapter, would differ in the last bits."""
    tiny_models.write_tiny("mixed", tmp_path / "mixed.gguf")
    config, ids = LLM(tmp_path / "mixed.gguf", backend="numpy").config, list(range(5, 30))
    llm = LLM(tmp_path / "mixed.gguf", backend=backend, adapters={"a": random_adapter(config, 4, 8.0, ("attn_q", "ffn_down"))})
    model = invariant_model(llm.transformer)
    segments = [Segment(ids, 0, model.new_cache(), "all", adapter) for adapter in (None, llm.adapter("a"))]
    for segment, found in zip(segments, model.forward(segments), strict=True):
        alone = model.forward([Segment(ids, 0, model.new_cache(), "all", segment.adapter)])[0]
        assert (found == alone).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["llama", "qwen2"])
@pytest.mark.parametrize("form", ["peft", "gguf"])
def test_served_an_adapter_says_what_peft_and_llama_cpp_say(name, form, backend, tmp_path):
    tiny_models.write_tiny(name, tmp_path / "tiny.gguf")
    recorded, path = json.loads((GOLDEN / "lora.json").read_text())["models"][name], GOLDEN / "lora" / name
    llm = LLM(tmp_path / "tiny.gguf", backend, adapters={"theirs": path if form == "peft" else path.with_suffix(".gguf")})
    both = llm.generate([recorded["ids"]] * 2, greedy(12), adapter=["theirs", None])
    assert [completion.token_ids for completion in both] == [recorded["greedy"], recorded["without"]]


def test_what_ends_early_leaves_nothing():
    made = engine(served("numpy"))
    first, second = (made.add([1, 2, 3], greedy(50), adapter=name) for name in ("moral", "rhyme"))
    made.step()
    assert set(made.executor.adapters) == {first, second}
    made.cancel(first)
    assert set(made.executor.adapters) == {second}
    made.cancel(second)
    assert not made.executor.adapters and not made.has_work


def test_a_name_that_is_not_there_is_refused():
    llm = served("numpy")
    for ask in (
        lambda: llm.generate("a", adapter="poem"),
        lambda: next(llm.stream("a", adapter="poem")),
        lambda: engine(llm).add("a", adapter="poem"),
    ):
        with pytest.raises(RequestError, match="no adapter is called 'poem'; there are: 'moral', 'rhyme'"):
            ask()
    with pytest.raises(RequestError, match="there are: none"):
        LLM(random_model(SMALL)).generate("a", adapter="moral")
    with pytest.raises(RequestError, match="for each of 3 prompts; found 2 names"):
        llm.generate(["a", "b", "c"], adapter=["moral", None])
    made = engine(llm)
    with pytest.raises(RequestError):
        made.add("a", adapter="poem")
    assert not made.running and not made.executor.adapters and not made.scheduler.has_work


def test_an_adapter_of_another_model_is_refused():
    other = random_adapter(SMALL)
    other.weights["blk.0.attn_q.weight.lora_a"] = np.zeros((2, 95), np.float32)
    with pytest.raises(ModelError, match=r"must have shape \(2, 96\), found \(2, 95\)"):
        LLM(random_model(SMALL), adapters={"wrong": other})


# --- over the wire and from the command line ----------------------------------------------------------------------------


def test_the_model_field_names_the_adapter():
    llm = served("numpy")
    site = AsyncEngine(engine(llm, num_blocks=400))
    asked = [("small" if name is None else name, prompt, right) for name, prompt, right in expected("numpy")]
    with running(site, Served.from_llm(llm, "small")) as (port, _):
        listed = json.loads(call(port, "GET", "/v1/models")[2])["data"]
        assert [(card["id"], card.get("parent")) for card in listed] == [("small", None), ("moral", "small"), ("rhyme", "small")]
        assert json.loads(call(port, "GET", "/v1/models/rhyme")[2])["id"] == "rhyme"
        assert call(port, "GET", "/v1/models/poem")[0] == 404
        for model, prompt, right in asked:
            body = {"model": model, "prompt": prompt, "max_tokens": 12, "temperature": 0, "ignore_eos": True}
            status, _, answer = post(port, "/v1/completions", body)
            assert status == 200 and answer["model"] == model
            assert answer["choices"][0]["text"] == llm.tokenizer.decode(right), model
        chat = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 12, "temperature": 0, "ignore_eos": True}
        texts = {m: post(port, "/v1/chat/completions", chat | {"model": m})[2] for m in ("small", "moral", "rhyme")}
        assert len({answer["choices"][0]["message"]["content"] for answer in texts.values()}) == 3
        assert [answer["model"] for answer in texts.values()] == list(texts)
        status, _, answer = post(port, "/v1/completions", {"model": "poem", "prompt": "a"})
        assert status == 404 and answer["error"]["code"] == "model_not_found"
        assert answer["error"]["message"] == "this server has the models 'small', 'moral', 'rhyme', found 'poem'."
        assert post(port, "/v1/completions", {"prompt": "a", "max_tokens": 1})[2]["model"] == "small"


def test_the_server_hands_the_name_to_the_engine():
    fake = FakeEngine()
    with running(fake, Served("fake", byte_tokenizer(512), 512, 300, adapters=("moral",))) as (port, _):
        for model in ("moral", "fake"):
            post(port, "/v1/completions", {"model": model, "prompt": [1, 2], "max_tokens": 2})
    assert fake.adapters == ["moral", None]


def test_an_adapter_may_not_have_the_models_name():
    with pytest.raises(ModelError, match="a name other than the model's; found 'moral'"):
        Served.from_llm(served("numpy"), "moral")


@pytest.mark.parametrize("form", ["peft", "gguf"])
def test_generate_takes_an_adapter(form, tiny, tiny_path, tmp_path, capsys):
    adapter = random_adapter(tiny.config, 3, 6.0, strength=2.0)
    save_gguf(tmp_path / "a.gguf", adapter, tiny.config)
    save_peft(tmp_path / "peft", adapter, tiny.config)
    path = tmp_path / ("peft" if form == "peft" else "a.gguf")
    told = []
    for options in ([], ["--lora", str(path)]):
        assert main(["generate", "--model", str(tiny_path), "--json", "--max-tokens", "8", *options, "the rain"]) == 0
        told.append(json.loads(capsys.readouterr().out.splitlines()[-1])["token_ids"])
    right = LLM(tiny_path, adapters={"a": adapter}).generate("the rain", greedy(8, ignore_eos=False), adapter="a").token_ids
    assert told[1] == right != told[0]
    assert main(["generate", "--model", str(tiny_path), "--lora", str(tmp_path / "none"), "the rain"]) == 2
    assert "none: cannot be read" in capsys.readouterr().err


def test_a_conversation_keeps_its_adapter_from_turn_to_turn(tiny_path, tiny):
    adapter = random_adapter(tiny.config, 3, 6.0, strength=2.0)
    llm = LLM(tiny_path, adapters={"a": adapter})
    talk, plain = Conversation(llm, adapter="a"), Conversation(llm)
    for text in ("the rain", "and the sun"):
        messages = [*talk.messages, {"role": "user", "content": text}]
        alone = llm.generate(llm.chat(messages), greedy(8, ignore_eos=False), adapter="a").text
        assert "".join(talk.say(text, greedy(8, ignore_eos=False))) == alone
        assert "".join(plain.say(text, greedy(8, ignore_eos=False))) != alone
    assert talk.reused > 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["moral"], "--lora takes NAME=PATH, found 'moral'"),
        (["=a.gguf"], "found '=a.gguf'"),
        (["moral="], "found 'moral='"),
        (["moral=a", "moral=b"], "a name of its own, found 'moral' twice"),
        (["served=a"], "found 'served' twice"),
    ],
)
def test_serve_refuses_names_that_are_none(given, words, capsys):
    options = [part for one in given for part in ("--lora", one)]
    assert main(["serve", "--name", "served", *options]) == 2
    assert words in capsys.readouterr().err


def test_serve_hands_paths_to_the_model_and_warms_it(tiny, tiny_path, tmp_path, monkeypatch):
    from minillm.cli import common, serve

    save_gguf(tmp_path / "a=b.gguf", random_adapter(tiny.config), tiny.config)
    parser = ArgumentParser()
    serve.configure(parser)
    args = parser.parse_args(["--model", str(tiny_path), "--lora", f"moral={tmp_path / 'a=b.gguf'}"])
    args.adapters = serve.adapters(args)
    llm, ways = common.load(args), []
    assert list(llm.adapters) == ["moral"]
    monkeypatch.setattr(transformer, "with_adapters", lambda *a: ways.append(a) or adapters.with_adapters(*a))
    serve.build(args, llm)
    assert len(ways) >= 2  # a prompt and a token: no client waits for what is compiled on first use
    args.adapters = {"moral": tmp_path / "none.gguf"}
    with pytest.raises(MiniLLMError):
        common.load(args)
