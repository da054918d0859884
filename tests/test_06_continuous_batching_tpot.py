"""One TPOT: a log gives one number, in every report and for any number of answers a request."""

import pytest
from engine_help import engine, greedy, small

from minillm.bench.compare import speeds
from minillm.errors import MiniLLMError
from minillm.load.generator import LoadTest, rows
from minillm.load.traces import TraceRequest
from minillm.metrics import events, summary
from minillm.metrics.events import ARRIVED, FINISHED, TOKEN, USAGE, Event, EventLog
from minillm.server.metrics_page import MetricsPage, WatchedLog

ANSWERS = {0: [2.0, 3.0, 4.0], 1: [2.5, 6.5], 2: [3.0]}  # TPOT 1.0, 4.0, and none
BY_HAND = {"vllm": (1.0 + 4.0) / 2, "guidellm": (3.0 / 3 + 5.5 / 2 + 2.0 / 1) / 3}


def log_of(answers, usage=None, log=None):
    log = EventLog() if log is None else log
    times = sorted((t, index) for index, times in answers.items() for t in times)
    found = [Event(3, ARRIVED, 1.0, 5), *(Event(3, TOKEN, t, 1, index) for t, index in times)]
    found += [Event(3, USAGE, times[-1][0], usage)] if usage else []
    clock = iter([e.time for e in found] + [times[-1][0]])
    log.clock = lambda: next(clock)
    for e in found:
        log.add(e.request, e.kind, e.tokens, e.index)
    log.add(3, FINISHED)
    return log


def doors(log):
    """Every way to ask for the TPOT of the one request in a log."""
    measured = summary.measure(log, 3)
    client = LoadTest([None] * 3 + [TraceRequest(5, 3)], log, open_loop=False)
    return {
        "events": events.tpot(log, 3),
        "summary": events.summary(log, 3)["tpot_s"],
        "latencies": summary.latencies(log, 3)[1],
        "measures": measured.tpot,
        "tpots": summary.tpots([measured])[0],
        "itls": summary.itls([measured], "guidellm")[0][0],
        "report": summary.report(log)["tpot_s"]["mean"],
        "load generator": rows(client)[0]["tpot_s"],
    }


@pytest.mark.parametrize("answers", [ANSWERS, {0: [2.0, 3.0, 4.5]}, {1: [2.0, 3.0], 5: [9.0, 9.5, 11.0, 12.0]}], ids=len)
def test_every_door_gives_the_same_number(answers):
    page = MetricsPage()
    log = WatchedLog()
    log.page = page
    found = doors(log_of(answers, log=log))
    assert len(set(found.values())) == 1, found
    lines = [line.split() for line in page.render({}).decode().splitlines() if "per_output_token_seconds_" in line]
    total, count = (next(float(n) for name, n in lines if name.endswith(end)) for end in ("_sum", "_count"))
    assert total / count == pytest.approx(found["events"]), "one value an answer, and their mean is the request's"


def test_of_several_answers_it_is_the_mean_of_theirs():
    log = log_of(ANSWERS)
    assert [events.tpot(log, 3, index=i) for i in ANSWERS] == [1.0, 4.0, None]
    for convention, expected in BY_HAND.items():
        assert events.tpot(log, 3, convention) == pytest.approx(expected)
        assert summary.tpots([summary.measure(log, 3)], convention) == pytest.approx([expected])
    assert [events.summary(log, 3, i)["new_tokens"] for i in ANSWERS] == [3, 2, 1]
    assert events.summary(log, 3, 1)["ttft_s"] == 1.5 and events.summary(log, 3)["ttft_s"] == 1.0


def test_what_a_server_reports_is_shared_out_as_it_was_seen():
    log = log_of({0: [2.0, 4.0, 6.0, 8.0], 1: [3.0, 5.0]}, usage=12)  # two tokens a chunk: 8 and 4
    assert events.tpot(log, 3) == pytest.approx((6.0 / 7 + 2.0 / 3) / 2)
    assert len(set(doors(log).values())) == 1
    assert events.tpot(log_of({0: [2.0, 4.0]}, usage=1), 3) is None, "a report of one token leaves no gap"


def test_the_engine_gives_each_answer_its_own(tmp_path):
    llm, log = small(), EventLog()
    runner = engine(llm, log=log)
    alone = runner.generate("hello", greedy(12))[0][0].token_ids
    (completions,) = runner.generate("hello", greedy(12, stop_token_ids=[alone[4]], temperature=1.0, seed=3), n=3)
    request = log.requests()[-1]
    assert [len(c.token_ids) for c in completions] == [c.metrics["new_tokens"] for c in completions]
    each = [c.metrics["tpot_s"] for c in completions]
    assert each == [events.tpot(log, request, index=i) for i in range(3)]
    assert summary.measure(log, request).tpot == pytest.approx(sum(each) / 3) and None not in each


def test_a_peer_of_the_bench_is_measured_by_it_too():
    found = speeds({"prefill_s": 0.5, "decode_s": 3.0, "peak_rss_bytes": 1}, prompt_tokens=8, new_tokens=6, batch=2)
    assert (found["ttft_s"], found["tpot_s"]) == (0.5, 0.5), "the prompt draws one token, then six more"


def test_an_unknown_request_is_an_error_in_words():
    with pytest.raises(MiniLLMError, match="request 9"):
        events.summary(log_of(ANSWERS), 9)


def test_run_gives_completions_also_where_the_log_forgets():
    """The metrics of a request are taken when it finishes: at the end of `generate` the log may have forgotten it."""
    log = EventLog(keep_last=1)
    found = engine(log=log).generate([[1], [2, 3], [4]], [greedy(2), greedy(2), greedy(4)])
    assert [len(c[0].token_ids) for c in found] == [2, 2, 4] and log.requests() == [2]
    assert [c[0].metrics["prompt_tokens"] for c in found] == [1, 2, 1]
