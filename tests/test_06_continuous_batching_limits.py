"""What can never fit is refused with the reason, and what fits to the last block runs to its end."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_help import most_blocks, request, schedule, started

from minillm.errors import RequestError
from minillm.scheduler.config import POLICIES, PREFIXES, SchedulerConfig, max_blocks
from minillm.scheduler.scheduler import Request, Scheduler

LIMITS = {"num_blocks": 10, "block_size": 4, "max_sequences": 4, "max_tokens_per_step": 16, "context_length": 36}
REFUSED = [
    ({"prompt": []}, {}, "at least 1 token.* found 0"),
    ({"max_tokens": 0}, {}, "max_tokens must be at least 1, found 0"),
    ({"n": 0}, {}, "n must be at least 1, found 0"),
    ({"n": 5}, {}, "n = 5 answers.* 4 sequences"),
    ({"prompt": [1] * 30, "max_tokens": 7}, {}, "30 \\+ 7 = 37 tokens.* holds 36"),
    ({"prompt": [1] * 17}, {"policy": "orca"}, "prompt has 17 tokens, a step takes 16.*'orca'"),
    ({"prompt": [1] * 17}, {"policy": "vllm"}, "prompt has 17 tokens, a step takes 16"),
    ({"prompt": [1] * 17}, {"policy": "static"}, "prompt has 17 tokens, a step takes 16"),
    ({"prompt": [1] * 30, "max_tokens": 12}, {"context_length": None}, "up to 11 blocks of 4 tokens, the pool has 10"),
    ({"prompt": [1] * 9, "max_tokens": 8, "n": 4}, {}, "up to 10 blocks of 4 tokens, the pool has 9", 9),
]


@pytest.mark.parametrize("case", REFUSED, ids=[case[2] for case in REFUSED])
def test_what_can_never_fit_is_refused_with_both_numbers(case):
    fields, config, message, *blocks = case
    scheduler = Scheduler(SchedulerConfig(**(LIMITS | config | ({"num_blocks": blocks[0]} if blocks else {}))))
    with pytest.raises(RequestError, match=message):
        scheduler.add(Request(**({"id": 1, "prompt": [1, 2], "max_tokens": 3} | fields)))
    assert not scheduler.has_work and not scheduler.sequences


def test_an_id_is_taken_once():
    engine = started(request(0))
    with pytest.raises(RequestError, match="request 0"):
        engine.scheduler.add(request(0))
    schedule(engine)
    engine.scheduler.add(request(0))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"policy": "best"}, "static, orca, vllm, chunked; found 'best'"),
        ({"order": "lifo"}, "found 'lifo'"),
        ({"preemption": "no"}, "found 'no'"),
        ({"prefix": "tree"}, "None, hash, radix; found 'tree'"),
        ({"max_sequences": 0}, "at least 1, found 0"),
        ({"host_blocks": -1}, "at least 0, found -1"),
        ({"patience": -1}, "at least 0, found -1"),
        ({"max_tokens_per_step": 3}, "max_sequences = 4.*found 3"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(wrong, message):
    with pytest.raises(RequestError, match=message):
        SchedulerConfig(**(LIMITS | wrong))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 13),
    st.integers(1, 9),
    st.integers(1, 4),
    st.sampled_from([1, 2, 4]),
    st.sampled_from(POLICIES),
    st.sampled_from(PREFIXES),
    st.integers(0, 3),
)
def test_a_request_that_fills_the_pool_to_the_last_block_runs_to_its_end(prompt, max_tokens, n, size, policy, prefix, watermark):
    asked = request(0, prompt, max_tokens, n=n)
    blocks = most_blocks(asked, size)
    assert max_blocks(asked, size) == blocks
    config = {"block_size": size, "policy": policy, "prefix": prefix, "max_sequences": 4, "max_tokens_per_step": 16}
    engine = started(asked, num_blocks=blocks, watermark=min(watermark, blocks - 1), **config)
    peak = 0
    while engine.scheduler.has_work:
        plan = engine.step()
        peak = max(peak, len({block for share in plan.shares for block in share.blocks}))
    assert engine.preempted == 0 and engine.fed == prompt + n * (max_tokens - 1)
    assert peak <= blocks and (prefix or peak == blocks)
    if blocks > 1:
        with pytest.raises(RequestError):
            Scheduler(replace(engine.scheduler.config, num_blocks=blocks - 1, watermark=0)).add(asked)
