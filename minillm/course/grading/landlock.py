"""Landlock: a process gives up, irrevocably, the files that it will not need.

The rights of a file belong to its owner: code that runs as you may read all your files. Landlock (Linux 5.13) lets an ordinary
process write down a short list, "beneath this folder: read", and bind itself to it. From then on the kernel asks both, the
user's rights and the list, and the list cannot be removed; children and new threads inherit it.

    create_ruleset(what is handled)  →  add_rule(folder, allowed) for each  →  restrict_self

What is handled and in no rule is refused. Each version (ABI) of Landlock handles more: 2 moving between folders, 3 truncating,
4 TCP, 5 device controls, 6 signals and abstract sockets of strangers. It never handles asking whether a file exists, its size, or
chmod: seccomp.py sees to the last. A process under Landlock cannot trace or read one that is not, whatever the users.

Source: https://docs.kernel.org/userspace-api/landlock.html
"""

import ctypes
import os
import stat
import struct

CREATE, ADD, RESTRICT = 444, 445, 446  # the system calls, of the same number on all machines
EXECUTE, WRITE, READ, LIST, REMOVE_DIR, REMOVE, MAKE_DIR, MAKE = (1 << bit for bit in (0, 1, 2, 3, 4, 5, 7, 8))
REFER, TRUNCATE = 1 << 13, 1 << 14
OF_FILES = EXECUTE | WRITE | READ | TRUNCATE  # what a rule for a file, not a folder, may allow
KNOWN = {1: 13, 2: 14, 3: 15, 4: 15}  # rights on files that an ABI knows: bits 0 to 12, 13, ...; 16 from ABI 5
CHANGE = WRITE | REMOVE_DIR | REMOVE | MAKE_DIR | MAKE | REFER | TRUNCATE  # no links, no devices, no pipes, no sockets

libc = ctypes.CDLL(None, use_errno=True)


def abi():
    """Find the version of Landlock that this kernel has switched on; 0 where there is none."""
    return max(0, libc.syscall(CREATE, None, 0, 1))


def ruleset(version):
    """Make a set of rules that handles all this version knows. Returns its descriptor."""
    words = [(1 << KNOWN.get(version, 16)) - 1]
    words += [0b11] * (version >= 4)  # bind and connect TCP
    words += [0b11] * (version >= 6)  # abstract sockets; signals
    return _call(CREATE, struct.pack(f"{len(words)}Q", *words), len(words) * 8, 0)


def allow(rules, version, path, rights):
    """Allow rights beneath path (a folder or a file); a path that is not there needs no rule."""
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rights &= (1 << KNOWN.get(version, 16)) - 1
        rights &= ~0 if stat.S_ISDIR(os.fstat(place).st_mode) else OF_FILES
        _call(ADD, rules, 1, struct.pack("=Qi", rights, place), 0)
    finally:
        os.close(place)


def restrict(rules):
    """Bind this thread, and all that it starts from now on. It needs no_new_privs first."""
    try:
        _call(RESTRICT, rules, 0)
    finally:
        os.close(rules)


def allow_around(rules, version, path, hidden):
    """Allow reading beneath path, but for the hidden folders beneath it: there, names alone may be listed."""
    if any(_beneath(path, other) for other in hidden):
        return
    if not any(_beneath(other, path) for other in hidden):
        allow(rules, version, path, READ | LIST)
        return
    allow(rules, version, path, LIST)
    for name in os.listdir(path):
        allow_around(rules, version, os.path.realpath(os.path.join(path, name)), hidden)


def _beneath(path, folder):
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _call(number, *arguments):
    result = libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{os.strerror(ctypes.get_errno())} (Landlock, system call {number})")
    return result
