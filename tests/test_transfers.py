"""What passes between host and device: the whole engine on a backend whose arrays refuse NumPy, every transfer counted.

One upload a step, of tokens, positions, rows, slots and block tables together; one download, of the tokens that were drawn, or
of rows of logits where an answer asks for more than the likeliest token. Blocks that are swapped are counted apart.
    pytest tests/test_transfers.py -s      prints the counts
"""

from collections import Counter

import numpy as np
import pytest
import refusing_backend
from engine_help import SMALL, engine, prompts
from lora_help import random_adapter
from refusing_backend import TRIPS, Device, Refused

from minillm import LLM, SamplingParams
from minillm.backends import BACKENDS
from minillm.cache.contiguous import ContiguousCache
from minillm.cache.paged import PageStore
from minillm.gateway.session import Part, Session
from minillm.metrics.events import CACHED, PREEMPTED
from minillm.model.random_model import random_model
from minillm.model.transformer import Segment

NEW = 12
BLOCK = (SMALL.n_layers, 4, SMALL.n_kv_heads, SMALL.d_head)  # a block of the paged cache, as a swap carries it


@pytest.fixture(autouse=True)
def refusing(monkeypatch):
    monkeypatch.setitem(BACKENDS, "refusing", refusing_backend.__name__)
    TRIPS.clear()


def model(backend):
    return LLM(random_model(SMALL, backend=backend), adapters={"moral": random_adapter(SMALL, 2, 3.0)})


def serve(backend, params, adapters=(None,), **config):  # -> engine, [tokens of each], [transfers of each step]
    """Eight prompts to their ends, four of which begin alike; the first goes ahead, so that the others find its prefix."""
    made, steps = engine(model(backend), **{"max_sequences": 8, **config}), []
    asked, common = prompts(8, longest=30), prompts(5)[4]
    asked = [common + p if i % 2 else p for i, p in enumerate(asked)]
    TRIPS.clear()

    def step():
        deltas = made.step()
        steps.append(list(TRIPS))
        TRIPS.clear()
        return deltas

    found, requests = {}, []
    for i, prompt in enumerate([common, *asked]):
        requests.append(made.add(prompt, params[i % len(params)], adapter=adapters[i % len(adapters)]))
        while i == 0 and made.has_work:
            step()
    while made.has_work:
        for delta in step():
            found.setdefault(delta.request, []).extend(delta.token_ids)
            assert delta.error is None, delta.error
    return made, [found.get(r) for r in requests], steps


GREEDY = SamplingParams(max_tokens=NEW, ignore_eos=True)
SAMPLED = SamplingParams(max_tokens=NEW, ignore_eos=True, temperature=0.9, seed=3)
LOADS = {
    "batch of 8": {},
    "prefix hit": {"prefix": "radix"},
    "chunked prefill": {"max_tokens_per_step": 16},
    "swap": {"num_blocks": 24, "preemption": "swap", "host_blocks": 64},
    "LoRA": {"adapters": (None, "moral", None)},
    "all of it": {
        "prefix": "hash", "max_tokens_per_step": 24, "num_blocks": 30, "preemption": "swap", "host_blocks": 64,
        "adapters": (None, "moral", None),
    },
}  # fmt: skip


@pytest.mark.parametrize("params", [[GREEDY], [GREEDY, SAMPLED]], ids=["greedy", "sampled among greedy"])
@pytest.mark.parametrize("load", LOADS)
def test_a_step_is_one_upload_of_numbers_and_one_download(load, params):
    made, said, steps = serve("refusing", params, **LOADS[load])
    reference, expected, _ = serve("numpy", params, **LOADS[load])
    assert said == expected, "the same tokens as NumPy's, through the wall"
    happened = Counter(e.kind for request in made.log.requests() for e in made.log.events_of(request))
    assert bool(happened[PREEMPTED]) == (load in ("swap", "all of it")) and bool(happened[CACHED]) == ("prefix" in LOADS[load])
    total = Counter()
    for trips in steps:
        swapped = [t for t in trips if t.shapes[0] == BLOCK]
        uploads, downloads = ([t for t in trips if t.kind == kind and t not in swapped] for kind in ("upload", "download"))
        assert len(uploads) == 1 and set(uploads[0].dtypes) == {"int64"}, trips
        drew = {t.dtypes[0] for t in downloads}
        assert len(downloads) <= 1 and drew <= ({"int64"} if params == [GREEDY] else {"int64", "float32"}), trips
        assert all(t.shapes[0][0] <= 8 for t in downloads), "one row or token for each that draws"
        kinds = Counter(t.kind for t in swapped)
        assert kinds["download"] == 0 or "swap" in LOADS[load].values()
        total.update(uploads=1, downloads=len(downloads), blocks=len(swapped))
    print(f"\n{load}: {len(steps)} steps, {total['uploads']} up, {total['downloads']} down, {total['blocks']} of blocks")
    assert bool(total["blocks"]) == bool(happened[PREEMPTED])


def test_a_decode_step_of_eight_carries_some_hundred_bytes():
    """Eight tokens, positions and rows, eight slots and tables up; eight tokens down. Not the logits, 2,000 times as much."""
    _, _, steps = serve("refusing", [GREEDY])
    up, down = steps[-2]
    numbers = [shape[0] for shape in up.shapes]
    assert numbers[:3] == [8, 8, 8] and numbers[3::2] == [1] * 8 and len(numbers) == 3 + 2 * 8
    assert down.shapes == ((8,),) and down.dtypes == ("int64",)


def test_generation_chat_and_sessions_run_behind_the_wall_too():
    ours, plain = model("refusing"), model("numpy")
    for params in (GREEDY, SAMPLED):
        expected = [c.token_ids for c in plain.generate(prompts(4), params, adapter=["moral", None, None, "moral"])]
        assert [c.token_ids for c in ours.generate(prompts(4), params, adapter=["moral", None, None, "moral"])] == expected
    parts = [Part(list(range(1, 80)), cache=True), [5]]
    sessions = [Session(llm, block_size=4) for llm in (ours, plain)]
    for _ in range(2):
        (found, used), (right, reference) = ((a.text, a.usage) for a in [s.generate(parts, GREEDY) for s in sessions])
        assert found == right and used == reference
    assert used.cache_read_tokens > 0


@pytest.mark.parametrize("paged", [False, True], ids=["contiguous", "paged"])
def test_a_cache_forks_truncates_and_grows_on_the_device(paged):
    ours, plain = model("refusing").transformer, model("numpy").transformer
    found = []
    for transformer in (ours, plain):
        ops = transformer.ops
        store = PageStore.for_model(SMALL, 40, 4, ops=ops)
        cache = store.new_cache() if paged else transformer.new_cache()
        transformer.forward([Segment(list(range(90)), 0, cache, "none")])
        cache.truncate(70)
        other = cache.fork()
        transformer.forward([Segment([1, 2, 3], 70, cache, "none")])
        (logits,) = transformer.forward([Segment([4, 5], 70, other, "all")])
        found.append(ops.download(logits))
        assert type(cache.read(0)[0]) is (Device if transformer is ours else np.ndarray)
    np.testing.assert_array_equal(*found)


def test_the_wall_is_a_wall():
    """A test that cannot fail shows nothing: each way around ops.upload and ops.download raises."""
    array = refusing_backend.zeros((3, 4))
    ways = {
        "np.asarray": lambda: np.asarray(array),
        "a ufunc": lambda: np.exp(array),
        "an operator with NumPy on the left": lambda: np.ones((3, 4)) + array,
        "and on the right": lambda: array + np.ones((3, 4)),
        "np.concatenate": lambda: np.concatenate([array, array]),
        "float": lambda: float(array[0, 0]),
        "iteration": lambda: list(array),
        "an index of the host": lambda: array[np.array([0, 1])],
        "assignment to it": lambda: array.__setitem__(np.array([0]), refusing_backend.zeros((1, 4))),
        "assignment from the host": lambda: array.__setitem__(slice(0, 1), np.zeros((1, 4))),
        "upload of what is there": lambda: refusing_backend.upload([array]),
        "download of what is here": lambda: refusing_backend.download(np.zeros(3)),
    }
    for name, way in ways.items():
        with pytest.raises(TypeError):
            pytest.fail(f"{name} went through: {way()}")
    assert issubclass(Refused, TypeError) and not TRIPS


def test_a_cache_that_is_not_given_its_numbers_brings_them_itself_and_is_counted():
    """What the test above would miss: a step whose caches upload for themselves."""
    store = PageStore.for_model(SMALL, 40, 4, ops=refusing_backend)
    cache, rows = store.new_cache(), Device(np.ones((3, SMALL.n_kv_heads, SMALL.d_head), np.float32))
    for layer in range(SMALL.n_layers):
        cache.append(layer, rows, rows)
    assert [t.kind for t in TRIPS] == ["upload"], "once, not once a layer"
    assert isinstance(ContiguousCache(1, 1, 4, 8, ops=refusing_backend).k, Device)
