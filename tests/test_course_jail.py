"""The locks of a submission's process: what the kernel refuses afterwards, and what must go on."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from minillm.course.grading import jail, landlock, seccomp

PACKAGE = Path(jail.__file__).parents[3]
linux = pytest.mark.skipif(sys.platform != "linux", reason="the wall is Linux's")
TRY = """
import json, os, sys
sys.path.insert(0, PACKAGE)
from minillm.course.grading import jail
wall = jail.confine(BOX, TMP, hidden=[HIDDEN])
def attempt(act):
    try:
        return repr(act())
    except BaseException as error:
        return type(error).__name__ if not isinstance(error, OSError) else os.strerror(error.errno)
print(json.dumps({"wall": str(wall), "done": [attempt(act) for act in (ACTS)]}))
"""


def confined(tmp_path, *acts):
    """Run expressions in a process that is locked up; -> [what came of each]; tmp_path/box is its box, box/tmp its folder."""
    import json

    folder = tmp_path / "box"
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    (folder / "hidden").mkdir(exist_ok=True)
    for path in (*tmp_path.parents, tmp_path, folder):
        if path.stat().st_uid == os.getuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055)
    (folder / "tmp").chmod(0o777)
    (folder / "here").write_text("here")
    (folder / "hidden/answer").write_text("the answer")
    (tmp_path / "outside").write_text("outside")
    names = {"PACKAGE": str(PACKAGE), "BOX": str(folder), "TMP": str(folder / "tmp"), "HIDDEN": str(folder / "hidden")}
    script = TRY.replace("ACTS", "".join(f"lambda: {act}," for act in acts))
    for name, value in names.items():
        script = script.replace(name, repr(value))
    env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(folder / "tmp"), "OUTSIDE": str(tmp_path / "outside")}
    run = subprocess.run([sys.executable, "-c", script], cwd=folder, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout.splitlines()[-1])
    return told["wall"], told["done"]


@linux
def test_files_are_there_only_where_they_must_be(tmp_path):
    if not landlock.abi():
        pytest.skip("this kernel has no Landlock")
    wall, done = confined(
        tmp_path, "open('here').read()", "open('tmp/x', 'w').write('x')", "os.replace('tmp/x', 'tmp/y')", "os.remove('tmp/y')",
        "open('hidden/answer')", "os.listdir('hidden')", "open('here', 'a')", "open(os.environ['OUTSIDE'])", "os.listdir('/')",
        f"open({jail.__file__!r})", "open('/proc/self/environ')", "os.symlink('here', 'tmp/link')", "os.link('here', 'tmp/link')",
        "os.mkfifo('tmp/pipe')", "os.chmod('tmp', 0o700)", "os.truncate('here', 0)", "open('/dev/null', 'w').write('x')",
        "len(open('/dev/urandom', 'rb').read(3))",
    )  # fmt: skip
    assert f"landlock abi {landlock.abi()}" in wall
    no, never = "Permission denied", "Operation not permitted"
    assert done == ["'here'", "1", "None", "None", no, "['answer']", *[no] * 5, *[never] * 5, "1", "3"]


@linux
def test_processes_sockets_and_other_peoples_processes_are_out_of_reach(tmp_path):
    wall, done = confined(
        tmp_path, "os.fork()", "__import__('subprocess').run(['true'])", "os.execv('/bin/true', ['true'])",
        "__import__('socket').socket()", "os.kill(os.getppid(), 0)", "os.kill(-1, 0)",
        "__import__('resource').prlimit(os.getppid(), 0)", "os.setpriority(0, os.getppid(), 5)", "os.sched_setaffinity(0, {0})",
        "os.memfd_create('x')", "__import__('ctypes').CDLL(None).unshare(0x10000000)",
        "__import__('ctypes').CDLL(None).ptrace(0, 0, 0, 0)",
        "__import__('socket').socketpair(__import__('socket').AF_UNIX, __import__('socket').SOCK_DGRAM)",
        "__import__('fcntl').fcntl(0, 8, os.getppid())", "os.setuid(0)",
    )  # fmt: skip
    assert "seccomp" in wall
    assert set(done) <= {"Operation not permitted", "-1"}, done


@linux
def test_work_goes_on_numpy_numba_threads_and_an_event_loop(tmp_path):
    _, done = confined(
        tmp_path, "float(__import__('numpy').ones((300, 300)).__matmul__(__import__('numpy').ones((300, 300))).sum())",
        "__import__('numba').njit(lambda x: x + 1)(1)", "__import__('asyncio').run(__import__('asyncio').sleep(0, 7))",
        "__import__('concurrent.futures').futures.ThreadPoolExecutor(2).submit(len, 'abc').result()", "os.kill(os.getpid(), 0)",
        "os.cpu_count() > 0", "__import__('tempfile').TemporaryFile().write(b'x')",
    )  # fmt: skip
    assert done == ["27000000.0", "2", "7", "3", "None", "True", "1"]


@linux
def test_a_thread_that_runs_already_would_stay_outside_and_is_refused():
    script = "import threading as t; from minillm.course.grading import jail\n"
    script += "t.Thread(target=t.Event().wait, daemon=True).start(); jail.confine()"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=PACKAGE)
    assert "expected one thread, found 2" in run.stderr


@linux
def test_an_installed_copy_is_found_and_hidden(tmp_path, monkeypatch):
    """A folder of packages may be read, but for the solved minillm in it; a checkout on the path not at all."""
    packages, checkout = tmp_path / "site-packages", tmp_path / "checkout"
    for folder in (packages / "minillm", packages / "numpy", checkout / "minillm"):
        folder.mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(packages), str(checkout)])
    assert str(packages) in jail.python_folders() and str(checkout) not in jail.python_folders()
    assert str(packages / "minillm") in jail.solved([])
    allowed = []
    monkeypatch.setattr(landlock, "allow", lambda rules, version, path, rights: allowed.append((path, rights)))
    landlock.allow_around(None, 7, str(packages), jail.solved([]))
    assert allowed == [(str(packages), landlock.LIST), (str(packages / "numpy"), landlock.READ | landlock.LIST)]


def test_where_there_is_no_wall_it_says_so(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert str(jail.confine()) == "no wall on darwin: limits and the audit hook only"


# --- the filter, run here as the kernel would: a machine of one register --------------------------------------------------------


def answer(code, machine, number, *arguments, architecture=None):
    """What a filter says to a system call: "allow", "kill" or the errno's number."""
    architecture = architecture or seccomp.ARCHITECTURES[machine][1]
    data = struct.pack("<IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    steps, at, word = [struct.unpack_from("<HBBI", code, i) for i in range(0, len(code), 8)], 0, 0
    while True:
        op, yes, no, k = steps[at]
        at += 1
        if op == seccomp.LOAD:
            word = struct.unpack_from("<I", data, k)[0]
        elif op == seccomp.AND:
            word &= k
        elif op == seccomp.RETURN:
            return {seccomp.ALLOW: "allow", seccomp.KILL: "kill"}.get(k, k & 0xFFFF)
        else:
            held = {seccomp.EQUAL: word == k, seccomp.ABOVE: word > k, seccomp.ANY_BIT: bool(word & k)}[op]
            at += yes if held else no


@pytest.mark.parametrize("machine", list(seccomp.ARCHITECTURES))
def test_each_call_of_the_tables_is_answered_as_they_say(machine):
    column, code = seccomp.ARCHITECTURES[machine][0], seccomp.program(machine, 77)

    def number(entry):
        return entry[column] if isinstance(entry, tuple) else entry

    refused = {name: number(entry) for name, entry in seccomp.REFUSED.items() if number(entry) is not None}
    assert {name for name, n in refused.items() if answer(code, machine, n) != 1} == set()
    assert len(set(refused.values())) == len(refused), "one number twice"
    asked = {name: number(entry) for name, entry in seccomp.LOOKED_AT.items()}
    thread, own, other = 0x3D0F00, 77, 78
    assert answer(code, machine, asked["clone"], thread) == "allow" and answer(code, machine, asked["clone"], 17) == 1
    for name in ("kill", "tgkill"):
        assert [answer(code, machine, asked[name], pid) for pid in (own, other, 0, 2**32 - 1)] == ["allow", 1, 1, 1]
    assert [answer(code, machine, asked["prlimit64"], pid) for pid in (0, own, other)] == ["allow", "allow", 1]
    pairs = {(1, 1): "allow", (1, 0x80001): "allow", (1, 2): 1, (2, 1): 1}  # AF_UNIX, SOCK_STREAM; with CLOEXEC; not DGRAM, INET
    assert {of: answer(code, machine, asked["socketpair"], *of) for of in pairs} == pairs
    assert [answer(code, machine, asked["fcntl"], 3, command) for command in (1, 3, 8, 15)] == ["allow", "allow", 1, 1]
    assert answer(code, machine, 435) == 38 and answer(code, machine, seccomp.NEWEST + 1) == 38, "clone3, what is newer: ENOSYS"
    everyday = {"x86_64": (0, 1, 3, 9, 202, 257), "aarch64": (63, 64, 57, 222, 98, 56)}[machine]
    assert {answer(code, machine, n) for n in everyday} == {"allow"}, "read, write, close, mmap, futex, openat"
    assert answer(code, machine, 0x40000000) == 38, "x32's numbers"
    assert answer(code, machine, 0, architecture=0x40000003) == "kill", "32-bit numbers mean other calls"
