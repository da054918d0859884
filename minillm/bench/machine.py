"""What this machine can do at best, and what the process has used: the ceilings that every measurement stands beside.

Decode reads every weight once per step, so its ceiling is memory bandwidth over bytes; prefill multiplies big matrices,
so its ceiling is arithmetic over FLOPs. Both are measured with the operation itself (a matrix-vector product larger than
any cache; a square matrix product), with the threads that the run will use. The roofline: Williams et al. 2009.
"""

import os
import platform
import sys
import time
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Machine:
    """Measured ceilings."""

    read_bytes_per_s: float
    flops_per_s: float
    cores: int
    cpu: str

    def json(self):
        return asdict(self)


def measure_machine(megabytes=512, n=2048):  # -> Machine
    """Best of several runs each, about a second in all."""
    import numpy as np

    rows = megabytes * 2**20 // 4 // 4096
    big, x = np.ones((rows, 4096), np.float32), np.ones(4096, np.float32)
    square = np.ones((n, n), np.float32)
    return Machine(
        read_bytes_per_s=big.nbytes / best_of(lambda: big @ x),
        flops_per_s=2 * n**3 / best_of(lambda: square @ square),
        cores=available_cores(),
        cpu=cpu_name(),
    )


def available_cores():
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def best_of(work, runs=5):  # -> seconds
    """The fastest of several runs: the others were disturbed."""
    work()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def cpu_name():
    try:
        with open("/proc/cpuinfo") as info:
            return next(line.split(":", 1)[1].strip() for line in info if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def peak_rss_bytes():
    """The most memory this process has held at once; None where the platform does not tell.

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
