"""Arrival times and ShareGPT's lengths; what else a trace may hold is in test_04_paged_attention_waste.py."""

import os
import random

import pytest

from minillm.errors import TraceError
from minillm.load.profiles import FOLDER, draw, fit, load_profile, quantiles
from minillm.load.traces import TraceRequest, read_any, read_azure, read_mooncake, read_sharegpt

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
SHAREGPT = "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n"
MOONCAKE = '{"timestamp": %s, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}\n'


def written(tmp_path, text):
    path = tmp_path / "trace"
    path.write_text(text, encoding="utf-8")
    return path


def test_azures_clock_has_seven_digits_and_starts_at_the_first_request(tmp_path):
    rows = "2023-11-16 23:59:59.6805900,374,44\n2023-11-17 00:00:03.9951690,396,109\n2023-11-16 23:59:59.6805900,1,1\n"
    found = read_azure(written(tmp_path, AZURE + rows))
    assert [r.arrival for r in found] == pytest.approx([0, 4.314579, 0], abs=1e-6)
    assert [(r.prompt, r.output) for r in found] == [(374, 44), (396, 109), (1, 1)]


def test_a_file_that_is_out_of_order_starts_at_its_earliest(tmp_path):
    rows = "2023-11-16 00:00:05,7,4\n2023-11-16 00:00:02,3,1\n"
    assert [r.arrival for r in read_azure(written(tmp_path, AZURE + rows))] == [3.0, 0.0]


def test_a_zone_is_heeded(tmp_path):
    rows = "2024-05-10 00:00:00+00:00,7,4\n2024-05-10 02:00:01+02:00,3,1\n2024-05-10 00:00:02,3,1\n"
    assert [r.arrival for r in read_azure(written(tmp_path, AZURE + rows))] == [0.0, 1.0, 2.0]


def test_mooncakes_clock_is_in_milliseconds(tmp_path):
    found = read_mooncake(written(tmp_path, MOONCAKE % 27_000 + MOONCAKE % 30_500 + MOONCAKE % 30_500.25))
    assert [r.arrival for r in found] == pytest.approx([0.0, 3.5, 3.50025]) and found[0].pages == (0, 1)


@pytest.mark.parametrize("stamp", ["-1", "true", '"5"', "null", "NaN", "Infinity", "1e300", "[]"])
def test_a_timestamp_that_is_none_is_named_by_its_line(tmp_path, stamp):
    with pytest.raises(TraceError, match=":2: timestamp must be a number of milliseconds, 0 or more, found"):
        read_mooncake(written(tmp_path, MOONCAKE % 0 + MOONCAKE % stamp))


@pytest.mark.parametrize("stamp", ["", "t", "2023-13-01 00:00:00", "0", "5.5", "2023-11-16 25:00:00", "9" * 5000])
def test_a_date_that_is_none_is_named_by_its_line(tmp_path, stamp):
    with pytest.raises(TraceError, match=":3: TIMESTAMP must be a date and time, found") as error:
        read_azure(written(tmp_path, f"{AZURE}2023-11-16 00:00:05,7,4\n{stamp},7,4\n"))
    assert len(str(error.value)) < 400 + len(str(tmp_path))


def test_a_trace_without_its_clock_is_refused(tmp_path):
    with pytest.raises(TraceError, match=":1: the header needs a column TIMESTAMP"):
        read_azure(written(tmp_path, "ContextTokens,GeneratedTokens\n5,6\n"))
    with pytest.raises(TraceError, match=":1: expected an object with timestamp"):
        read_mooncake(written(tmp_path, (MOONCAKE % 0).replace("timestamp", "time")))


def test_sharegpt_has_lengths_and_no_clock(tmp_path):
    path = written(tmp_path, SHAREGPT + "74,918,992,0.08\n290,905,1195,0.32\n")
    assert read_sharegpt(path) == [TraceRequest(74, 918), TraceRequest(290, 905)]
    with pytest.raises(TraceError, match=":2: output must be a whole number"):
        read_sharegpt(written(tmp_path, SHAREGPT + "74,9.5,83,7\n"))


def test_a_trace_is_known_by_its_first_line(tmp_path):
    assert read_any(written(tmp_path, "\ufeff" + AZURE + "2023-11-16,7,4\n")) == [TraceRequest(7, 4, arrival=0.0)]
    assert read_any(written(tmp_path, SHAREGPT + "7,4,11,1\n")) == [TraceRequest(7, 4)]
    assert read_any(written(tmp_path, MOONCAKE % 5)) == [TraceRequest(600, 5, (0, 1), 0.0)]
    for text in ("", "hello\n", "prompt,output\n"):
        with pytest.raises(TraceError, match="known by its first line"):
            read_any(written(tmp_path, text))


def test_the_profile_of_sharegpt_is_like_what_the_trace_is_said_to_be():
    """Mean and quartiles that plain Python finds in the published file; 30,731 draws, ten standard errors and more."""
    requests = draw(load_profile("sharegpt_8k"))
    assert len(requests) == 30_731 and all(1 <= r.prompt <= 8141 and 2 <= r.output <= 1024 for r in requests)
    assert sum(r.prompt for r in requests) / 30_731 == pytest.approx(2340, rel=0.05)
    assert sum(r.output for r in requests) / 30_731 == pytest.approx(438.7, rel=0.05)


def test_sharegpts_profile_can_be_made_anew(tmp_path):
    rng = random.Random(1)
    rows = "".join(f"{rng.randint(1, 999)},{rng.randint(2, 99)},0,0\n" for _ in range(500))
    profile = fit("sharegpt", written(tmp_path, SHAREGPT + rows))
    assert profile["kind"] == "lengths" and "Apache-2.0" in profile["source"]
    assert profile["prompt"] == quantiles([int(row.split(",")[0]) for row in rows.split()], 129)


def test_every_profile_that_ships_is_named_with_its_source_and_licence():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for path in FOLDER.glob("*.json"):
        row = next(line for line in readme.splitlines() if line.startswith(f"| `{path.name}`"))
        assert row.endswith(("CC-BY-4.0 |", "Apache-2.0 |")) and "arXiv:" in row


@pytest.mark.skipif("MINILLM_AZURE_TRACE" not in os.environ, reason="MINILLM_AZURE_TRACE: path of Azure's conv.csv")
def test_the_azure_trace_arrives_at_the_published_rate():
    requests = read_azure(os.environ["MINILLM_AZURE_TRACE"])
    assert len(requests) / requests[-1].arrival == pytest.approx(5.53, abs=0.01)


@pytest.mark.skipif("MINILLM_MOONCAKE_TRACE" not in os.environ, reason="MINILLM_MOONCAKE_TRACE: path of Mooncake's conversations")
def test_the_mooncake_trace_takes_an_hour():
    assert read_mooncake(os.environ["MINILLM_MOONCAKE_TRACE"])[-1].arrival == pytest.approx(3536.999)
