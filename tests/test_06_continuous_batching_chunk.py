"""Exercise 06.6, the largest chunk within a limit on a step's time; and what `serve --tpot-limit` makes of it."""

from argparse import ArgumentParser
from dataclasses import replace

import mistakes_serving
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minillm.bench import machine
from minillm.cli import serve
from minillm.costs.time import largest_chunk
from minillm.course.checks import check_close, exercise
from minillm.errors import MiniLLMError
from minillm.llm import LLM
from minillm.model.presets import preset
from minillm.model.random_model import TINY, random_model

H100 = 989e12, 3.35e12  # FLOP/s, bytes/s
LLAMA = preset("llama-3-8b")
SMALL = replace(TINY, name="small", n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=128, vocab_size=500)


def seconds(config, flops, bandwidth, batch, context, chunk, cached, fused=False):
    """The time of a step from the shape alone: three groups of kernels, one after another. fused: one maximum over all, as if
    one kernel did everything."""
    c, width = config, 2  # bytes of a weight, a key, a value
    head = c.vocab_size * c.d_model
    layer = c.d_model * (2 * c.n_heads + 2 * c.n_kv_heads) * c.d_head + 3 * c.d_model * c.d_ff
    token = 2 * c.n_layers * c.n_kv_heads * c.d_head * width
    pairs = sum(cached + i for i in range(1, chunk + 1)) if chunk < 50 else chunk * cached + (chunk**2 + chunk) / 2
    products = 2 * (batch + chunk) * c.n_layers * layer + 2 * (batch + (chunk > 0)) * head
    attention = 4 * c.n_layers * c.n_heads * c.d_head * pairs
    weights, decodes = (c.n_layers * layer + head) * width, batch * context * token
    if fused:
        return max((products + attention) / flops, (weights + decodes + cached * token) / bandwidth)
    return max(products / flops, weights / bandwidth) + decodes / bandwidth + max(attention / flops, cached * token / bandwidth)


def slowly(time, limit, most):
    """Try one size after the other."""
    chunk = 0
    while chunk < most and time(chunk + 1) <= limit:
        chunk += 1
    return chunk


def check_chunk(config, flops, bandwidth, limit, most, batch, context, cached):
    def time(batch, chunk, cached, fused):
        return seconds(config, flops, bandwidth, batch, context, chunk, cached, fused)

    right = slowly(lambda chunk: time(batch, chunk, cached, False), limit, most)
    words = f"{batch} decodes of {context}, {cached} tokens cached, at most {most} tokens in {1e3 * limit:.4g} ms"
    try:
        found = largest_chunk(config, flops, bandwidth, limit, most, batch, context, cached)
    except NotImplementedError:
        raise
    except Exception as error:
        pytest.fail(f"{words}: it raised {type(error).__name__}: {error}")
    assert isinstance(found, int), f"{words}: the chunk is a whole number of tokens, an int, found {found!r}"
    what = f"the largest chunk beside {words}"
    check_close(found, right, 0, 0, what, mistakes=lambda: mistakes_serving.largest_chunk(time, limit, most, batch, cached))


def halfway(config, flops, bandwidth, batch, context, chunk, cached):
    """A limit that the chunk meets and the next one does not, whatever the order of additions; or just what the chunk takes."""
    here, there = (seconds(config, flops, bandwidth, batch, context, c, cached) for c in (chunk, chunk + 1))
    return (here + there) / 2


@exercise("06.6", points=2, hint=(
    "Ask step_time about one size. What does its answer say about all smaller sizes, and about all larger ones?",
    "The time never falls as the chunk grows: halve the range of sizes, and keep the half in which the last fitting one is.",
    "low, high = 0, most. While low < high: chunk = (low + high + 1) // 2; if step_time(…) <= limit, low = chunk, else "
    "high = chunk - 1.",
))  # fmt: skip
@pytest.mark.parametrize("limit_ms", [6.0, 10.0, 25.0])
def test_the_lessons_server_meets_its_objective(limit_ms):
    for cached in (0, 3000):
        check_chunk(LLAMA, *H100, limit_ms / 1e3, 4000, 32, 1000, cached)


@exercise("06.6", points=1, hint="Which sizes are possible at all? 0, all of `most`, and what just fits: try these by hand.")
@given(
    chunk=st.integers(1, 300), batch=st.sampled_from([0, 1, 3, 40]), context=st.sampled_from([1, 7, 900]),
    cached=st.sampled_from([0, 1, 500]), most=st.integers(1, 300),
)  # fmt: skip
@example(chunk=1, batch=0, context=1, cached=0, most=1)
@example(chunk=255, batch=3, context=7, cached=1, most=256)
def test_the_last_that_fits_is_found_at_any_size(chunk, batch, context, cached, most):
    flops, bandwidth = 1e9, 1e12  # products at once bound by FLOPs: each token counts
    limit = halfway(SMALL, flops, bandwidth, batch, context, chunk, cached)
    check_chunk(SMALL, flops, bandwidth, limit, most, batch, context, cached)


@exercise("06.6", points=1, hint="The decodes alone may break the promise: then no chunk helps, and 0 is the answer.")
def test_where_nothing_fits_and_where_everything_does():
    for limit in (0.0, 0.004, 0.0057):
        found = largest_chunk(LLAMA, *H100, limit, 4000, 32, 1000)
        assert found == 0, f"32 decodes take 5.7 ms at least: within {1e3 * limit:g} ms no prompt token fits, found {found}"
    for most in (0, 1, 4000):
        found = largest_chunk(LLAMA, *H100, 10.0, most, 32, 1000)
        assert found == most, f"in 10 s all {most} tokens of the prompt fit, found {found}"


@exercise("06.6", points=1, hint="A million sizes one by one take seconds. How many halvings are there from a million to one?")
def test_a_context_of_a_million_tokens_is_no_reason_to_try_a_million_sizes():
    calls, right = [], 620_000

    class Counting:
        """The shape of a model whose products take one second a token; it counts how often it is asked."""

        def kv_bytes_per_token(self, bytes_per_value):
            return 0

        def decode_bytes(self, *arguments):
            return 0

        def product_flops(self, tokens, logits):
            calls.append(tokens)
            if len(calls) > 200:
                pytest.fail(f"200 steps were computed to find one of 1,000,000 sizes, the last of {tokens}: halve the range")
            return tokens

        def prefill_attention_flops(self, tokens, cached):
            return 0

    found = largest_chunk(Counting(), 1.0, 1.0, float(right), 1_000_000)
    assert found == right, f"a token takes a second, the limit is {right:,} s: {right:,} tokens take no longer, found {found:,}"


# --- minillm serve --tpot-limit ---------------------------------------------------------------------------------------------


def arguments(*options):
    parser = ArgumentParser()
    serve.configure(parser)
    return parser.parse_args(options)


@pytest.fixture
def server(monkeypatch):
    """What --tpot-limit makes of a model that runs on a machine of round numbers. -> (SchedulerConfig)"""
    here = machine.Machine(read_bytes_per_s=1e9, flops_per_s=1e9, cores=1, cpu="round")
    monkeypatch.setattr(machine, "measure_machine", lambda **options: here)
    model = LLM(random_model(replace(SMALL, vocab_size=TINY.vocab_size), backend="numpy"))

    def start(*options):
        front, _, config = serve.build(arguments("--blocks", "64", *options), model)
        return config, model.config

    return start


def test_the_budget_of_a_server_follows_its_objective(server):
    config, shape = server("--tpot-limit", "0.05", "--max-sequences", "4")
    chunk, context = config.max_tokens_per_step - 4, 64 * 16 // 4

    def takes(chunk):
        products = max(shape.product_flops(4 + chunk, 5), 4 * shape.matrix_parameters()) / 1e9
        token = shape.kv_bytes_per_token(4)
        attention = max(shape.prefill_attention_flops(chunk, shape.context_length), shape.context_length * token) / 1e9
        return products + 4 * context * token / 1e9 + attention

    assert 0 < chunk < shape.context_length and takes(chunk) <= 0.05 < takes(chunk + 1)


def test_an_objective_below_the_decodes_is_refused_with_both_numbers(server):
    with pytest.raises(MiniLLMError, match=r"16 decodes .* takes 0\.\d+ s at least on this machine, 1e-06 s are allowed"):
        server("--tpot-limit", "1e-6")


def test_a_budget_is_given_in_one_way(capsys):
    with pytest.raises(SystemExit):
        arguments("--tpot-limit", "0.1", "--max-tokens-per-step", "64")
    assert "not allowed with argument" in capsys.readouterr().err
