"""Compile once: never stale, never broken by a kill, silent the second time, and no disk is needed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from minillm.backends import get_backend
from minillm.backends.numba_ import compiled
from minillm.cli import main

CHILD = """
import hashlib, sys
import numpy as np
from kernel_help import stored_matrix
from minillm.backends import get_backend
ops = get_backend("numba")
with ops.compiling('Q8_0, F32'):
    matrix, floats = (ops.load_matrix(stored_matrix(type, 40, 64)) for type in ("Q8_0", "F32"))
    x = np.random.default_rng(0).standard_normal((5, 64)).astype(np.float32)
    parts = [ops.embed(np.arange(40), matrix), ops.linear(x, floats), ops.linear(x, matrix)]
print(hashlib.sha256(b"".join(p.tobytes() for p in parts)).hexdigest())
"""


def start(cache, code=CHILD):
    tests = Path(__file__).parent
    path = os.pathsep.join(map(str, (tests, tests / "support", tests.parent)))
    environment = os.environ | {"MINILLM_CACHE": str(cache), "PYTHONPATH": path}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out.strip(), err


def names(cache):  # of the pieces of machine code that are kept: kernels, and the code of a layout
    return sorted(path.name for path in Path(cache).rglob("*.nbc"))


def kept(cache):
    return len(names(cache))


@pytest.fixture(scope="module")
def expected():
    """What CHILD prints, computed here, with the kernels of this process."""
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(CHILD, {})
    return out.getvalue().strip()


@pytest.mark.slow
def test_a_process_killed_while_compiling_leaves_nothing_broken(tmp_path, expected):
    """Killed when 0, 1, 2 … pieces of code are kept, each time soon after another; the next start goes on where it ended."""
    whole, cache = tmp_path / "whole", tmp_path / "killed"
    assert finish(start(whole))[0] == expected
    everything = names(whole)  # four kernels; where there are workers, what they run as well (team.py)
    assert 4 <= len(everything) <= 5
    for moment in range(len(everything)):
        process = start(cache)
        limit = time.monotonic() + 120
        while process.poll() is None and (kept(cache) < moment or not (cache / "kernels").exists()):
            assert time.monotonic() < limit
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, f"it ended before {moment} pieces were kept"
    out, _ = finish(start(cache))
    assert out == expected and names(cache) == everything
    out, err = finish(start(cache))
    assert (out, err) == (expected, ""), "the second time everything is there and nothing is said"

    folder = next((cache / "kernels").iterdir())
    (folder / "tmp.of_a_dead_process").write_bytes(b"half")
    next(folder.rglob("*.nbc")).unlink()  # killed between the index and the file
    assert finish(start(cache))[0] == expected and names(cache) == everything


def test_the_first_time_is_announced_in_one_line_and_a_folder_that_cannot_be_written_is_no_error(tmp_path, expected):
    (tmp_path / "file").write_text("not a folder")
    code = CHILD.replace(", ops.linear(x, floats), ops.linear(x, matrix)]", "]")
    out, err = finish(start(tmp_path / "file", code))
    assert len(out) == 64
    why = "at every start, because the cache folder cannot be written"
    assert err == f"minillm: compiling kernels for this machine, {why}: about a minute\n"
    out, err = finish(start(tmp_path / "new", code))
    assert err == "minillm: compiling kernels for this machine, once: about a minute\n" and kept(tmp_path) == 1
    assert finish(start(tmp_path / "new", code)) == (out, "")


@pytest.fixture
def notice(monkeypatch):
    monkeypatch.setattr(compiled, "notice", compiled.Notice())
    return compiled.notice


ours, other = SimpleNamespace(data={"dispatcher": compiled.KERNELS[0]}), SimpleNamespace(data={"dispatcher": object()})


def test_any_number_of_kernels_is_one_line(capsys, notice):
    for event in (other, ours, ours, other, ours):
        notice.on_start(event)
        notice.on_end(event)
    err = capsys.readouterr().err
    assert err.startswith("minillm: compiling kernels for this machine") and err.count("compiling") == err.count("\n") == 1


def test_a_terminal_sees_progress(capsys, monkeypatch, notice):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with compiled.compiling('F16'):
        for event in (other, ours, ours):
            notice.on_start(event)
            notice.on_end(event)
    err = capsys.readouterr().err
    assert err.startswith("minillm: compiling kernels") and ": 2 of about 20 done, 0 s" in err and err.count("\n") == 1
    with compiled.compiling('F16'):
        pass
    assert capsys.readouterr().err == "", "all was kept: nothing to say"


def test_any_edit_begins_a_new_folder(tmp_path):
    copy = tmp_path / "numba_"
    shutil.copytree(compiled.SOURCES, copy, copy_function=shutil.copy2, ignore=shutil.ignore_patterns("__pycache__"))
    before = compiled.fingerprint(copy)
    assert before == compiled.fingerprint(), "the same files, elsewhere"
    seen = {before}
    for path in sorted(copy.glob("*.py")):
        source, times = path.read_bytes(), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
        path.write_bytes(source + b"\n")
        os.utime(path, ns=times)  # an edit within the clock's tick, or by a tool that keeps times
        seen.add(compiled.fingerprint(copy))
        path.write_bytes(source)
        os.utime(path, ns=times)
    assert compiled.fingerprint(copy) == before
    (copy / "another.py").write_text("")
    seen.add(compiled.fingerprint(copy))
    assert len(seen) == 2 + len(list(compiled.SOURCES.glob("*.py")))


@pytest.mark.parametrize("switch", ["NUMBA_OPT", "NUMBA_BOUNDSCHECK", "NUMBA_CPU_FEATURES"])
def test_a_switch_of_the_compiler_begins_a_new_folder_and_the_number_of_threads_does_not(monkeypatch, switch):
    before = compiled.fingerprint()
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    assert compiled.fingerprint() == before
    monkeypatch.setenv(switch, "1")
    assert compiled.fingerprint() != before


def test_a_process_that_runs_edited_source_does_not_see_old_code(tmp_path):
    """A copy of the package, run; then a constant of a function that is inlined into the kernel of another file is edited."""
    package = tmp_path / "minillm"
    shutil.copytree(compiled.SOURCES.parents[1], package, ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "import numpy as np\nfrom minillm.backends.numba_.compiled import kernel\nfrom minillm.backends.numba_ import simd\n"
        "from minillm.backends.numba_.edited import f\nprint(f(np.arange(16, dtype=np.float32)))"
    )
    kernels, helper = package / "backends" / "numba_" / "edited.py", package / "backends" / "numba_" / "helper.py"
    kernels.write_text(
        "from minillm.backends.numba_.compiled import kernel\nfrom minillm.backends.numba_.helper import g\n\n\n"
        "@kernel()\ndef f(a):\n    return g(a[3])\n"
    )

    def run():
        environment = os.environ | {"MINILLM_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return float(done.stdout)

    results = []
    for factor in (2, 2, 7):
        text = f"from numba import njit\n\n\n@njit\ndef g(x):\n    return {factor} * x\n"
        if not helper.exists() or helper.read_text() != text:
            helper.write_text(text)
        results.append(run())
    assert results == [6, 6, 21] and len(list((tmp_path / "cache" / "kernels").iterdir())) == 2


def test_folders_of_a_month_ago_are_removed_and_others_stay(tmp_path, monkeypatch):
    monkeypatch.setenv("MINILLM_CACHE", str(tmp_path))
    old, recent = tmp_path / "kernels" / "old", tmp_path / "kernels" / "recent"
    for folder, days in ((old, 31), (recent, 3)):
        folder.mkdir(parents=True)
        then = time.time() - days * 24 * 3600
        os.utime(folder, (then, then))
    here = compiled.make_folder()
    assert here.is_dir() and recent.is_dir() and not old.exists() and compiled.make_folder() == here


# minillm backends


def test_backends_tells_threads_their_kind_and_what_is_compiled(capsys):
    get_backend("numba")
    assert main(["backends", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])["numba"]
    assert facts["available"] and facts["threads"] >= 1
    assert facts["compiled_kernels"] >= 0 and facts["kernel_folder"] == str(compiled.FOLDER)
    assert main(["backends"]) == 0
    assert f"{facts['threads']} threads, " in capsys.readouterr().out


def test_a_command_in_a_process_that_runs_numba_may_ask_for_fewer_threads():
    """Numba refuses to compile when its variable changes after its own threads have begun."""
    code = (
        "import numba, numpy as np, os\nfrom minillm.cli import set_threads\nfrom minillm.backends import get_backend\n"
        "b = get_backend('numba'); b.state(); set_threads(1)\n"
        "from minillm.backends.numba_.team import threads\n"
        "print(threads(), numba.njit(lambda x: x + 1)(1), os.environ['OMP_NUM_THREADS'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["1", "2", "1"], done.stderr
