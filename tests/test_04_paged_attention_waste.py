"""Memory waste on a trace: closed forms against tables that really grow, the published figures, and files from strangers."""

import os
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minillm.bench.replay import paged_steps, power_of_two, run, waste
from minillm.cache.block_pool import BlockPool
from minillm.cache.block_table import BlockTable
from minillm.costs.memory import forked_blocks
from minillm.course.checks import answers, check_close, exercise
from minillm.errors import MiniLLMError, RequestError, TraceError
from minillm.load.profiles import at, draw, fit, load_profile, quantiles
from minillm.load.traces import TraceRequest, read_azure, read_mooncake

# --- 04.6: blocks of several answers --------------------------------------------------------------------------------------


def blocks_by_content(prompt, new, samples, size):
    """Each block is what it holds and where: equal ones are one block. The answers' tokens carry their number."""
    answers = [[("prompt", i) for i in range(prompt)] + [(s, i) for i in range(new)] for s in range(samples)]
    return len({(at, *tokens[at : at + size]) for tokens in answers for at in range(0, len(tokens), size)})


def up(n, size):
    return -(-n // size)


FORKED = {
    "every answer counts the whole prompt: its full blocks are shared": lambda p, n, s, b: s * up(p + n, b),
    "the prompt's last block is taken for shared: answers write into it, so each has its own": (
        lambda p, n, s, b: up(p, b) + s * (up(p + n, b) - up(p, b))
    ),
    "answers are counted from an empty block: their first tokens go into the prompt's last one": (
        lambda p, n, s, b: p // b + s * up(n, b)
    ),
    "answers begin a new block, and the prompt's last one is shared": lambda p, n, s, b: up(p, b) + s * up(n, b),
    "the prompt's last block is counted once more: the last who writes to it keeps it": (
        lambda p, n, s, b: p // b + s * (up(p + n, b) - p // b) + (p % b > 0)
    ),
    "one answer too few is counted": lambda p, n, s, b: p // b + (s - 1) * (up(p + n, b) - p // b),
    "nothing is shared but the first answer's part: all answers together are taken for one text": (
        lambda p, n, s, b: up(p + s * n, b)
    ),
    "the last block is left out where it is not full: it is held too": lambda p, n, s, b: p // b + s * ((p + n) // b - p // b),
    "tokens are counted, not blocks": lambda p, n, s, b: p + s * n,
}
COPIES_AT_ONCE = "a copy is counted for each answer before any has written: with new = 0 all is shared"


def check_forked(prompt, new, samples, size):
    right = blocks_by_content(prompt, new, samples, size)
    what = f"forked_blocks({prompt}, {new}, {samples}, {size})"
    with answers(what, "It is a number of blocks."):
        found = float(forked_blocks(prompt, new, samples, size))
    ways = {words: float(way(prompt, new, samples, size)) for words, way in FORKED.items()}
    if new == 0:
        ways = {COPIES_AT_ONCE: float(prompt // size + samples * (up(prompt, size) - prompt // size))} | ways
    check_close(found, float(right), rtol=0, atol=0, what=what, mistakes=lambda: ways)


@exercise(
    "04.6",
    points=2,
    hint=(
        "Draw it: blocks of 4, a prompt of 10 tokens, three answers of 3. Which blocks does somebody write to after the fork?",
        "Full blocks of the prompt are never written again: prompt // block_size of them are shared. All others each answer has.",
        "shared = prompt // block_size; shared + samples * (blocks_for(prompt + new, block_size) - shared).",
    ),
)
@given(prompt=st.integers(0, 70), new=st.integers(1, 40), samples=st.integers(1, 5), size=st.sampled_from([1, 4, 16]))
@example(prompt=64, new=30, samples=4, size=16)
@example(prompt=70, new=30, samples=4, size=16)  # the mistakes that still look alike differ in one of the two
def test_answers_share_what_nobody_writes_to(prompt, new, samples, size):
    check_forked(prompt, new, samples, size)


@exercise("04.6", points=1, hint="new = 0: nobody has written yet. And a prompt that ends with its block leaves nothing to copy.")
@pytest.mark.parametrize(("prompt", "new"), [(10, 0), (16, 0), (0, 0), (16, 1), (16, 16), (15, 1), (17, 15)])
@pytest.mark.parametrize("samples", [1, 3])
def test_the_fork_itself_and_the_edges_of_blocks(prompt, new, samples):
    check_forked(prompt, new, samples, 16)


def test_tables_that_fork_hold_as_many_blocks_as_the_formula_says():
    pool = BlockPool(100, 16)
    first = BlockTable(pool)
    first.append(70)
    tables = [first, *(first.fork() for _ in range(3))]
    assert pool.num_blocks - pool.num_free == forked_blocks(70, 0, 4, 16) == 5
    for table in tables:
        table.append(30)
    assert pool.num_blocks - pool.num_free == forked_blocks(70, 30, 4, 16) == 4 + 4 * 3


HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
GOOD = '{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}\n'


@given(prompt=st.integers(1, 70), output=st.integers(1, 40), size=st.sampled_from([1, 2, 8, 16]))
def test_the_closed_form_is_what_a_table_that_grows_holds(prompt, output, size):
    table, reserved = BlockTable(BlockPool(256, size)), 0
    table.append(prompt)
    for _ in range(output):
        reserved += len(table.blocks) * size
        table.append(1)
    assert paged_steps(prompt, output, size) == reserved


def test_waste_of_one_request_by_hand():
    """Prompt 3, output 2: it holds 3, then 4 tokens."""
    found = waste([TraceRequest(3, 2)], reserve=10, block_sizes=(1, 2, 4))
    for way, reserved in [("reserve 10", 20), ("power of two", 16), ("power of two of the output", 10), ("paged 1", 7),
                          ("exact length, known before", 10), ("paged 2", 8), ("paged 4", 8)]:  # fmt: skip
        assert found[way]["waste"] == pytest.approx(1 - 7 / reserved), way
    assert found["paged 4"]["fits"] == pytest.approx(20 / 8)


def test_powers_of_two():
    assert [power_of_two(n) for n in (1, 2, 3, 4, 5, 1023, 1024, 1025)] == [1, 2, 4, 4, 8, 1024, 1024, 2048]


def test_requests_longer_than_the_reservation_are_left_out():
    assert waste([TraceRequest(3, 2), TraceRequest(9, 9)], reserve=10) == waste([TraceRequest(3, 2)], reserve=10)
    with pytest.raises(RequestError, match="none of 1 requests fits into 10 tokens"):
        waste([TraceRequest(9, 9)], reserve=10)


def check_azure(requests):
    found = waste(requests)
    assert found["paged 16"]["waste"] == pytest.approx(0.0061, abs=0.0005)
    assert found["reserve 8192"]["waste"] == pytest.approx(0.850, abs=0.005)


@pytest.mark.skipif("MINILLM_AZURE_TRACE" not in os.environ, reason="MINILLM_AZURE_TRACE: path of Azure's conv.csv")
def test_on_the_azure_trace_paging_wastes_what_was_published():
    check_azure(read_azure(os.environ["MINILLM_AZURE_TRACE"]))


def test_what_is_drawn_from_the_profile_wastes_as_the_trace_does():
    requests = draw(load_profile("azure_conv"))
    assert requests == draw(load_profile("azure_conv")), "a seed gives the same requests every time"
    check_azure(requests)


def test_a_profile_finds_itself_again(tmp_path):
    rng, path = random.Random(1), tmp_path / "trace.csv"
    path.write_text(HEADER + "".join(f"2023-11-16,{rng.randint(1, 999)},{rng.randint(1, 99)}\n" for _ in range(500)))
    profile = fit("azure", path)
    drawn = draw(profile, 4000)
    for mine, theirs in zip(quantiles([r.prompt for r in drawn], 9), quantiles(profile["prompt"], 9), strict=True):
        assert abs(mine - theirs) < 60
    assert [at([0, 10, 40], u) for u in (0, 0.25, 0.5, 0.75, 1)] == [0, 5, 10, 25, 40]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no requests"),
        (HEADER, "no requests"),
        ("a,b\n1,2\n", ":1: the header needs a column ContextTokens"),
        (HEADER + "2023-11-16,5,6\n2023-11-16,5\n", ":3: expected 3 columns as in the header, found 2"),
        (HEADER + "\n\n2023-11-16,5,x\n", ":4: output must be a whole number of tokens, 1 to 10,000,000, found 'x'"),
        (HEADER + "2023-11-16,0,6\n", ":2: prompt must be .* found 0"),
        (HEADER + "2023-11-16,-5,6\n", ":2: prompt must be .* found '-5'"),
        (HEADER + "2023-11-16,99999999999,6\n", ":2: prompt must be .* found 99,999,999,999"),
        (HEADER + "2023-11-16," + "9" * 9000 + ",6\n", ":2: prompt must be"),
        (HEADER + "2023-11-16,٣,6\n", ":2: prompt must be"),
        (HEADER + "2023-11-16,1.5,6\n", ":2: prompt must be"),
    ],
)
def test_a_broken_csv_is_named_by_its_line(tmp_path, text, words):
    path = tmp_path / "trace.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TraceError, match=words) as error:
        read_azure(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400 + len(str(path))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no requests"),
        ("{", ":1: not a line of JSON"),
        (GOOD + "[1, 2]", ":2: expected an object with input_length"),
        (GOOD.replace("hash_ids", "hashes"), ":1: expected an object with hash_ids"),
        (GOOD.replace("600", "true"), ":1: input_length must be"),
        (GOOD.replace("600", "6e2"), ":1: input_length must be"),
        (GOOD.replace("600", "1" * 5000), ":1: not a line of JSON"),
        (GOOD.replace("600", "NaN"), ":1: input_length must be"),
        (GOOD.replace("[0, 1]", '"01"'), ":1: hash_ids must be a list"),
        (GOOD.replace("[0, 1]", "[0, null]"), ":1: hash_ids must be a list"),
        (GOOD.replace("[0, 1]", "[0]"), ":1: 600 tokens are 2 pages of 512, found 1"),
        ("[" * 100_000, ":1: not a line of JSON"),
    ],
)
def test_broken_json_lines_are_named_by_their_line(tmp_path, text, words):
    path = tmp_path / "trace.jsonl"
    path.write_text(text)
    with pytest.raises(TraceError, match=words) as error:
        read_mooncake(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400 + len(str(path))


def test_files_that_are_no_text_or_not_there(tmp_path):
    path = tmp_path / "trace"
    with pytest.raises(TraceError, match="cannot be read"):
        read_azure(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TraceError, match="not text in UTF-8"):
        read_mooncake(path)
    path.write_bytes(b"x" * 4_000_001)
    with pytest.raises(TraceError, match="at most 4,000,000 characters"):
        read_azure(path)
    path.write_bytes(b"\xef\xbb\xbf" + HEADER.encode() + b"2023-11-16, 7 ,8\r\n\r\n")
    assert read_azure(path) == [TraceRequest(7, 8, arrival=0.0)]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "lengths"}', '{"kind": [], "requests": 1}', "[" * 100_000])
def test_a_file_that_is_no_profile_is_refused(tmp_path, text):
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(TraceError):
        load_profile(path)
    for inside in ('"prompt": [], "output": []', '"prompt": [1, 2], "output": ["x"]', '"prompt": 5, "output": 7'):
        path.write_text(f'{{"kind": "lengths", "requests": 3, {inside}}}')
        with pytest.raises(TraceError, match="does not hold what it should"):
            draw(load_profile(path))


def test_the_command_prints_both_ways(tmp_path, capsys):
    import json

    from minillm.cli import main

    path = tmp_path / "trace.csv"
    path.write_text(HEADER + "2023-11-16,100,20\n")
    assert main(["bench", "paging", "--trace", str(path), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["paging"] == waste([TraceRequest(100, 20)]) and "paged 16" in err
    assert main(["bench", "paging", "--trace", str(tmp_path / "none.csv")]) == 2
    assert "drawn from the profile azure_conv" in run("paging")["source"]
    with pytest.raises(MiniLLMError, match="azure, mooncake or sharegpt, found 'vidur'"):
        fit("vidur", path)
