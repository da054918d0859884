"""What this machine can do at best, and what the process has used: the ceilings that every measurement stands beside.

Decode reads every weight once per step, so its ceiling is memory bandwidth over bytes; prefill multiplies big matrices,
so its ceiling is arithmetic over FLOPs. A ceiling that a measurement can pass is none, so bandwidth is the fastest of several
ways to read memory larger than any cache, and arithmetic is that of the instruction in use: a square product of float32 for
NumPy, for compiled kernels what peak.py finds. The roofline: Williams et al. 2009.

Other programs that run meanwhile lower everything. `cpu_share` tells how much of the cores a process really gets.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

from minillm.cores import available_cores

BUSY_BELOW = 0.85  # of the cores' time: with less, figures say more about the other programs than about this one


@dataclass(frozen=True, slots=True)
class Machine:
    """Measured ceilings. flops_per_s: of float32 products; kernel_flops_per_s: of the compiled kernels, int8_flops_per_s: of
    theirs with activations in 8 bits; 0 where unknown.
    """

    read_bytes_per_s: float
    flops_per_s: float
    cores: int
    cpu: str
    kernel_flops_per_s: float = 0.0
    int8_flops_per_s: float = 0.0

    def json(self) -> dict[str, Any]:
        return asdict(self)

    def better(self, other: "Machine") -> "Machine":
        """Take the best of two measurements, such as one before and one after a run: one of them may have been disturbed."""
        best = {name: max(getattr(self, name), getattr(other, name)) for name in self.__slots__ if name.endswith("_per_s")}
        return replace(self, **best)

    def peak(self, kernels: bool, activations: str = "exact") -> float:  # -> FLOP/s that bound a run
        """Return the peak FLOP/s. kernels: of the compiled backend; a float32 product's is possible at least."""
        found = [self.flops_per_s, *[self.kernel_flops_per_s] * kernels]
        return max(found + [self.int8_flops_per_s] * (kernels and activations == "int8"))


def measure_machine(megabytes: int = 512, n: int = 2048, kernels: bool = False) -> Machine:
    """Measure the machine: best of several runs, about a second in all. kernels: those of the compiled backend too."""
    import numpy as np

    square = np.ones((n, n), np.float32)
    peak = small = 0.0
    if kernels:
        from minillm.bench.peak import kernel_flops_per_s

        found = kernel_flops_per_s(available_cores(), best_of)
        small = found.pop("bytes")
        peak = max(found.values())
    return Machine(
        read_bytes_per_s=bandwidth(megabytes),
        flops_per_s=2 * n**3 / best_of(lambda: square @ square),
        cores=available_cores(),
        cpu=cpu_name(),
        kernel_flops_per_s=peak,
        int8_flops_per_s=small,
    )


def kept_machine() -> Machine:
    """Return the machine that MINILLM_MACHINE names, a file of JSON, as notebooks share one; measured where there is none."""
    path = os.environ.get("MINILLM_MACHINE", "")
    if path and os.path.exists(path):
        with open(path) as file:
            return Machine(**json.load(file))
    return measure_machine(megabytes=256, kernels=True)


def bandwidth(megabytes: int) -> float:  # -> bytes/s, of the fastest of three ways to read
    """Measure a matrix-vector product with the library's own threads; a dot product and a maximum, each core in its own part."""
    import numpy as np

    cores = available_cores()
    big, x = np.ones((megabytes * 2**20 // 4 // 4096, 4096), np.float32), np.ones(4096, np.float32)
    parts, piece = np.array_split(big.reshape(-1), cores), 1 << 16

    def squared(part: Any) -> Any:  # a dot product of each piece with itself, which the first cache holds meanwhile
        for i in range(0, len(part), piece):
            np.dot(part[i : i + piece], part[i : i + piece])

    with ThreadPoolExecutor(cores) as pool:
        ways = [
            lambda: big @ x,
            lambda: list(pool.map(squared, parts)),
            lambda: list(pool.map(np.max, parts)),
        ]
        return big.nbytes / min(map(best_of, ways))


def cpu_share(seconds: float = 0.2) -> float:  # -> 0 … 1
    """Measure the share of all cores' time that this process gets when it asks for all of it: 1 on an idle machine.

    One thread a core hashes (which needs no lock of Python's); its CPU time is set beside the clock.
    """
    from hashlib import sha256

    block, cores = bytes(1 << 20), available_cores()

    def spin(_: Any) -> Any:
        begin, used = time.perf_counter(), time.thread_time()
        while (passed := time.perf_counter() - begin) < seconds:
            sha256(block).digest()
        return (time.thread_time() - used) / passed

    with ThreadPoolExecutor(cores) as pool:
        return min(1.0, sum(pool.map(spin, range(cores))) / cores)


def busy(share: float) -> str | None:  # -> a line for a person, or None
    """Warn about figures measured at this share of the cores' time."""
    if share >= BUSY_BELOW:
        return None
    return f"this machine is busy: a process gets {share:.0%} of its cores; figures are too low, and may contradict each other"


def best_of(work: Callable[[], Any], runs: int = 5) -> float:  # -> seconds
    """Time the fastest of several runs: the others were disturbed. NumPy's products get the threads that find a core."""
    from minillm.backends.blas import libraries

    libraries().fit()
    work()
    libraries().fit()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as info:
            return next(line.split(":", 1)[1].strip() for line in info if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def peak_rss_bytes() -> int | None:
    """Measure the peak memory of this process; None where the platform does not tell.

    Linux: from /proc, because getrusage goes on counting from the peak of the process that started this one.
    """
    try:
        with open("/proc/self/status") as status:
            return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts KiB
