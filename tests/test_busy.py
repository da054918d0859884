"""A busy machine is told; a ceiling is the best of what was measured; integer kernels have the ceiling of their instruction."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from minillm.bench import busy as bench_busy
from minillm.bench import machine
from minillm.bench.compare import ceilings
from minillm.bench.machine import Machine, busy, cpu_share
from minillm.cli.common import tell_share
from minillm.model import zoo
from minillm.model.presets import PRESETS

SLOW = Machine(read_bytes_per_s=1e9, flops_per_s=1e11, cores=2, cpu="?", kernel_flops_per_s=3e11)


@pytest.mark.parametrize(("used", "share"), [(1.0, 1.0), (0.5, 0.5), (0.25, 0.25)])
def test_the_share_is_the_threads_time_over_the_clocks(monkeypatch, used, share):
    """A clock that runs on by itself: each look at it takes 10 ms, of which a thread gets `used`."""
    now = [0.0]

    def tick():
        now[0] += 0.01
        return now[0]

    monkeypatch.setattr(machine, "available_cores", lambda: 1)
    clocks = SimpleNamespace(perf_counter=tick, thread_time=lambda: used * now[0])
    monkeypatch.setattr(machine, "time", clocks)
    assert cpu_share(0.2) == pytest.approx(share, rel=0.1)


def test_a_busy_machine_is_told_on_standard_error(monkeypatch, capsys):
    monkeypatch.setattr(machine, "cpu_share", lambda: 0.31)
    assert tell_share(0.9) == 0.31
    out, err = capsys.readouterr()
    assert out == "" and "busy" in err and "31%" in err and err.count("\n") == 1
    monkeypatch.setattr(machine, "cpu_share", lambda: 0.99)
    assert tell_share(0.97) == 0.97 and capsys.readouterr() == ("", "")
    assert busy(0.2) and busy(1.0) is None


def test_of_two_measurements_the_better_counts():
    other = Machine(read_bytes_per_s=3e9, flops_per_s=5e10, cores=2, cpu="?", kernel_flops_per_s=1e11)
    assert SLOW.better(other) == Machine(3e9, 1e11, 2, "?", 3e11)


def test_packed_weights_have_the_ceiling_of_the_integer_instruction():
    config = PRESETS["smollm2-135m"]
    packed, wide = (ceilings(config, SLOW, 512, 32, 1, bits) for bits in (5.0, 32))
    assert packed["prefill_tokens_per_s"] == pytest.approx(3 * wide["prefill_tokens_per_s"])
    assert (packed["flops_per_s"], wide["flops_per_s"]) == (3e11, 1e11)


def test_the_fastest_way_to_read_is_the_ceiling(monkeypatch):
    """Three loops, and the least of their times; which one that is differs between machines."""
    seconds = iter([0.5, 0.25, 1.0])
    monkeypatch.setattr(machine, "best_of", lambda work: work() is None or next(seconds))
    assert machine.bandwidth(1) == 2**20 / 0.25


@pytest.mark.slow
def test_a_chain_computes_what_its_instruction_says():
    """So the compiler has left nothing out: after a step each lane of the integer chains holds two products and a sum more."""
    from minillm.bench.peak import CHAINS, FLOPS, make

    assert set(FLOPS) == {"integers", "floats"} and min(CHAINS) > 1
    for chains, start in ((4, 3), (8, 5), (12, 7)):
        total = 0
        for n in range(chains):  # the upper halves of the lanes are 0
            total ^= (start + n) + (start + n) * start
        assert make(0, chains)(1, start) == 16 * total


def test_each_engine_is_measured_beside_each_neighbour_and_again_asked_of_those_that_can(monkeypatch):
    """Steps of 10 ms when quiet, of 20, 40 and 40 beside the neighbours, where one is of 400; OpenVINO reads prompts anew."""
    asked, now = [], []
    steps = dict(zip(bench_busy.NEIGHBOURS, ([0.01] * 4, [0.02] * 4, [0.04] * 4, [0.04] * 3 + [0.4]), strict=True))

    class Stub:
        def __init__(self, name):
            self.name = name

        def ask(self, **request):
            asked.append((self.name, request.get("again")))
            return {"step_s": steps[now[-1]] if now else [1.0]}

    @contextmanager
    def workers(names, *args, **options):
        yield {name: Stub(name) for name in names}

    @contextmanager
    def beside(name, cores):
        now.append(name)
        yield

    monkeypatch.setattr(bench_busy, "workers", workers)
    monkeypatch.setattr(bench_busy, "beside", beside)
    result = bench_busy.run(zoo.resolve("tiny"), [2], 8, 4, 3, "numpy", 2, ["OpenVINO"])
    assert sorted(now) == sorted(list(bench_busy.NEIGHBOURS) * 6), "two engines, three rounds"
    assert set(asked[2:]) == {("minillm", True), ("OpenVINO", None)}, "the first two calls fill the caches"
    for found in result["batches"][2].values():
        kept = [found[name]["kept"] for name in bench_busy.NEIGHBOURS]
        assert kept == pytest.approx([1, 0.5, 0.25, 0.04 / 0.52]) and found["quiet"]["tokens_per_s"] == pytest.approx(200)
        assert found["loops, nice 0"]["p99_s"] > 0.3 and found["loops, nice 0"]["p50_s"] == pytest.approx(0.04)
    text = bench_busy.table(result)
    assert "loops, nice 0    OpenVINO" in text and "0.50   0.50" in text


@pytest.mark.parametrize(
    ("given", "variables", "says"),
    [
        (["--threads", "9"], {}, "9 threads on 2 cores"),
        ([], {"OPENBLAS_NUM_THREADS": "5"}, "5 threads on 2 cores take turns and wait for each other (OPENBLAS_NUM_THREADS)"),
        (["--threads", "2"], {"OMP_NUM_THREADS": "7"}, ""),  # what is said last holds
        ([], {"NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "many"}, ""),
    ],
)
def test_more_threads_than_cores_are_told(monkeypatch, capsys, given, variables, says):
    from minillm import cli
    from minillm.bench.worker import THREAD_VARIABLES

    for name in THREAD_VARIABLES:
        monkeypatch.setenv(name, variables.get(name, ""))
    monkeypatch.delitem(cli.sys.modules, "numba", raising=False)  # running, it keeps its own number
    monkeypatch.setattr(cli, "available_cores", lambda: 2)
    assert cli.main(["generate", "--model", "no-such-model", "x", *given]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if "cores" in line]
    assert len(told) == bool(says) and says in "".join(told)
