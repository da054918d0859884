"""Confine this process, before it runs untrusted code.

Python cannot be made safe by reading it, nor by hooks inside the interpreter: the code shares the memory of what should watch it.
So the kernel watches. Each lock takes something away irrevocably, from this process and from all that it will start:

    no_new_privs   no program can give rights back (set-user-id files do nothing)
    nobody         where we are root: a user of its own, to whom no file and no other process belongs
    Landlock       files: Python and the box may be read, tmp may be written, everything else is not there (landlock.py)
    seccomp        no processes, sockets, signals to others, mounts, ... : the system calls themselves are refused (seccomp.py)
    limits         time, memory, file size, descriptors, processes (child.py)

They overlap on purpose: each has had holes. Namespaces (what containers are made of) would add little to these, and many systems
refuse them; a lock that the system lacks is left out, and `Wall` says so. A thread that runs already would stay outside: so this
comes before NumPy, which starts some.

Sources: landlock(7), seccomp(2), capabilities(7); OpenSSH and Chromium lock their own children up in this order.
"""

import ctypes
import glob
import os
import struct
import sys
import sysconfig
from dataclasses import dataclass, field

from minillm.errors import MiniLLMError

NOBODY, STRANGERS = 65534, range(61184, 65520)  # systemd's dynamic users: no account has these numbers
PR_SET_KEEPCAPS, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, CLEAR_ALL = 8, 38, 47, 4
CAPSET = {"x86_64": 126, "aarch64": 91}  # the system call's number
DAC_READ_SEARCH = 1 << 2  # the capability to read files of other users; Landlock still says which
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")
MACHINE = ("/dev/null", "/dev/zero", "/dev/urandom", "/proc/cpuinfo", "/sys/devices/system/cpu", "/etc/ld.so.cache")


class JailError(MiniLLMError):
    """A process that cannot be confined as it is."""


@dataclass
class Wall:
    """The locks between the code in this process and the machine."""

    stands: list = field(default_factory=list)  # "landlock abi 7", "seccomp", "nobody"
    lacks: list = field(default_factory=list)  # "no Landlock: this kernel has none"

    def __str__(self):
        return ", ".join(self.stands + self.lacks) or "nothing"


def confine(box=".", tmp="tmp", more=(), hidden=()):
    """Confine this process, irrevocably. Returns the Wall.

    box: the folder it may read, beside Python, its packages and `more`; tmp: the one it may write. hidden: folders that it must
    not read though they lie among those (an installed copy of minillm is found without being named). JailError where other
    threads run already: they would stay outside.
    """
    wall = Wall()
    if sys.platform != "linux":
        wall.lacks.append(f"no wall on {sys.platform}: limits and the audit hook only")
        return wall
    if (threads := len(os.listdir("/proc/self/task"))) > 1:
        raise JailError(f"expected one thread, found {threads}: confine() must come before NumPy is imported.")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise JailError("this kernel has no no_new_privs (Linux 3.5): nothing can be locked.")
    from minillm.course.grading import landlock, seccomp

    rules, version = None, landlock.abi()
    if version:  # opened now, with the rights that we are about to give up
        rules, closed = landlock.ruleset(version), solved(hidden)
        for path in readable(box, more):
            landlock.allow_around(rules, version, path, closed)
        landlock.allow(rules, version, tmp, landlock.READ | landlock.LIST | landlock.CHANGE)
        landlock.allow(rules, version, os.devnull, landlock.READ | landlock.WRITE)
    drop(libc, wall, version)
    if version:
        landlock.restrict(rules)
        wall.stands.append(f"landlock abi {version}")
    else:
        wall.lacks.append("no landlock: this kernel has none, or has it off")
    try:
        seccomp.install(libc)
        wall.stands.append("seccomp")
    except OSError as error:
        wall.lacks.append(f"no seccomp: {error.strerror}")
    return wall


def drop(libc, wall, version):
    """Drop root for user nobody, and every capability but, where only that opens Python, reading under Landlock."""
    closed = not all(map(public, python_folders()))
    keep = DAC_READ_SEARCH if closed and version and os.uname().machine in CAPSET and capable(DAC_READ_SEARCH) else 0
    if os.geteuid() == 0:
        if closed and not keep:
            wall.lacks.append("root still: user nobody cannot read this Python")
            return
        libc.prctl(PR_SET_KEEPCAPS, int(bool(keep)), 0, 0, 0)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        try:
            become(STRANGERS[os.getpid() % len(STRANGERS)])  # limits and signals count by user: children share none
        except OSError:  # a container that maps few users
            become(NOBODY)
    libc.prctl(PR_CAP_AMBIENT, CLEAR_ALL, 0, 0, 0)
    if capset := CAPSET.get(os.uname().machine):
        header, sets = struct.pack("Ii", 0x20080522, 0), struct.pack("6I", keep, keep, 0, 0, 0, 0)
        if libc.syscall(capset, header, sets):
            raise JailError(f"capabilities stay: {os.strerror(ctypes.get_errno())}.")
    wall.stands.append("nobody" if os.getuid() == NOBODY or os.getuid() in STRANGERS else f"user {os.getuid()}")


def become(user):
    os.setresuid(user, user, user)


def capable(capability):
    """Whether this process holds a capability now."""
    with open("/proc/self/status", encoding="ascii") as status:
        (held,) = (line.split()[1] for line in status if line.startswith("CapEff:"))
    return bool(int(held, 16) & capability)


def public(path):
    """Whether every user may read folder path, as far as the permissions along it tell."""
    while True:
        if os.stat(path).st_mode & 0o005 != 0o005:
            return False
        if path == os.path.dirname(path):
            return True
        path = os.path.dirname(path)


def python_folders():
    """List the folders that Python imports from, but for the box and for checkouts of this package."""
    folders = [os.path.realpath(path) for path in [sysconfig.get_path("stdlib"), *sys.path] if path and os.path.isdir(path)]
    return [path for path in dict.fromkeys(folders) if path.endswith("-packages") or not os.path.isdir(f"{path}/minillm")]


def readable(box, more):
    """List every path that a confined process may read."""
    libraries = [*LIBRARIES, f"{sys.base_prefix}/lib", f"{sys.prefix}/lib"]
    return list(dict.fromkeys(os.path.realpath(path) for path in [box, *more, *python_folders(), *libraries, *MACHINE]))


def solved(hidden):
    """List the folders beneath what is readable that hold this package with its solutions, and those that are hidden by name."""
    packages = [*python_folders(), *(path for folder in (*LIBRARIES, f"{sys.base_prefix}/lib", f"{sys.prefix}/lib")
                                     for path in glob.glob(f"{folder}/python3*/*-packages"))]  # fmt: skip
    found = [f"{path}/minillm" for path in packages if os.path.isdir(f"{path}/minillm")]
    return list(dict.fromkeys(os.path.realpath(path) for path in (*found, *hidden)))


if __name__ == "__main__":  # what would stand here? (the current folder takes the box's place)
    print(confine())
