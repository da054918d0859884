"""What Linux says of this process: its memory and whose it is, its page faults, and what it made the disk read.

    Rss         pages that it has in memory, its own and those of files
    Anonymous   pages that no file stands behind: nobody else has them, and they can only be swapped
    Pss         Rss, but a page that n processes have counts as 1/n: summed over processes it is what they take together

A page of a mapped file that is in the page cache costs a minor fault, for sixteen pages at once; one that is not costs a major
fault, and the system reads ahead. proc(5); Documentation/filesystems/proc.rst of the kernel.
"""

import os
import re
import resource
from pathlib import Path
from typing import Any

ROLLUP, SMAPS, IO = (Path("/proc/self") / name for name in ("smaps_rollup", "smaps", "io"))
ENTRY = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+ +(.*)$")


def available() -> bool:
    return ROLLUP.exists() and IO.exists()


def memory(files: list[str]) -> dict[str, int]:
    """Measure the memory of this process, and which part of it is pages of these files."""
    found = numbers(ROLLUP.read_text())
    out = {"rss_bytes": found["Rss"], "pss_bytes": found["Pss"], "own_bytes": found["Anonymous"]}
    out |= {"file_rss_bytes": 0, "file_pss_bytes": 0}
    paths, here = {os.path.realpath(file) for file in files}, False
    for line in SMAPS.read_text().splitlines():
        if match := ENTRY.match(line):
            here = match[1] in paths
        elif here and line.startswith(("Rss:", "Pss:")):
            out[f"file_{line[:3].lower()}_bytes"] += 1024 * int(line.split()[1])
    return out


def numbers(text: str) -> dict[str, int]:  # lines of "Name:  12 kB" -> {name: bytes}
    found = (line.split() for line in text.splitlines())
    return {words[0][:-1]: 1024 * int(words[1]) for words in found if len(words) == 3 and words[2] == "kB"}


def counts() -> dict[str, int]:
    """Count what was read from the disk, in bytes, and page faults."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    io = dict(line.split(": ") for line in IO.read_text().splitlines())
    return {"disk_bytes": int(io["read_bytes"]), "major_faults": usage.ru_majflt, "minor_faults": usage.ru_minflt}


def evict(path: Any) -> None:
    """Ask the system to drop a file from the page cache. It keeps pages that somebody has mapped, or that no disk has yet."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fdatasync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)
