"""The TTFT benchmark of a shared prefix: what it measures, in counts. No test asserts seconds."""

import json
from dataclasses import replace

import pytest

from minillm import LLM
from minillm.bench.prefix import run, table
from minillm.errors import RequestError
from minillm.model.random_model import TINY, random_model


@pytest.fixture(scope="module")
def llm():
    return LLM(random_model(replace(TINY, n_layers=1, d_model=32, n_heads=2, n_kv_heads=1, d_head=16, context_length=128)))


def test_each_way_computes_what_its_share_leaves(llm, monkeypatch):
    computed = []
    logits = llm.transformer.logits

    def counting(segments):
        computed.append(sum(len(s.tokens) for s in segments))
        return logits(segments)

    monkeypatch.setattr(llm.transformer, "logits", counting)
    result = run(llm, prompt_tokens=100, question_tokens=7, rounds=2)
    first = [100, 107, 7, 100, 75, 50, 25, 5]
    assert computed == [100, *first, *first[1:], first[0]], "the second round begins with the next way"
    assert [row["cached_tokens"] for row in result["shares"]] == [0, 25, 50, 75, 95]
    expected = [row["ttft_by_flops_s"] for row in result["shares"]]
    assert expected == sorted(expected, reverse=True) and expected[0] == result["ttft_cold_s"]
    config = llm.config
    assert result["system_prompt"]["ratio_of_flops"] == config.prefill_flops(107) / config.prefill_flops(7, cached=100)
    assert json.loads(json.dumps(result)) == result
    assert "95%" in table(result) and "100 tokens and a question of 7" in table(result)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"prompt_tokens": 121, "question_tokens": 7}, "121 + 7 tokens of 128"),
        ({"prompt_tokens": 0}, "0 + 16 tokens"),
        ({"prompt_tokens": 10, "shares": (1.0,)}, "(1.0,)"),
        ({"prompt_tokens": 10, "rounds": 0}, "0 rounds"),
    ],
)
def test_a_measurement_that_makes_no_sense_is_refused(llm, options, says):
    with pytest.raises(RequestError) as error:
        run(llm, **options)
    assert says in str(error.value)
