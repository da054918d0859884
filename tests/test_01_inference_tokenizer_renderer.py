"""The process that renders chat templates: its limits, its life, and what happens to the requests when it dies."""

import ast
import json
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import pytest
from watchdog import watchdog

from minillm.errors import TokenizerError
from minillm.model.tokenizer import sandbox
from minillm.model.tokenizer.sandbox import RENDERER, compile_template, renderer_file

ROOT = Path(__file__).parents[1]
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc, or needs limits that Linux keeps")
FOREVER = "{% for i in range(90000) %}" * 3 + "{% endfor %}" * 3


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """On a busy machine five seconds may be little; tests of the limit set their own."""
    monkeypatch.setattr(sandbox, "SECONDS", 50.0)


def rendered(template, **variables):
    return compile_template(template)(messages=[], **variables)


def refusal(template):
    with watchdog(60), pytest.raises(TokenizerError) as caught:
        rendered(template)
    return str(caught.value)


def pid():
    rendered("x")
    return RENDERER.process.pid


def is_gone(process_id):
    """Within ten seconds."""
    for _ in range(1000):
        try:
            if Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True  # ended; the process that inherited it has not looked yet
        except OSError:
            return True
        time.sleep(0.01)
    return False


def in_python(code, **options):
    """Run code in a new interpreter that sees the project; what it prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, **options)
    assert not done.stderr, done.stderr
    return done.stdout.split()


# ---- limits


SLICES = "{% set s = 'a' * (3999999 + messages | length) %}" + "".join(f"{{% set v{i} = s[1:] %}}" for i in range(150))


@LINUX
@pytest.mark.parametrize(
    "template",
    [
        "{{ '%(a)300000000s' % {'a': 'x'} }}",
        "{{ strftime_now('%99999999d' ~ 'x' * 300000) }}",
        "{{ (['a' * 1000] * 300000) | join }}",
        SLICES,
        "{{ 'a' * 10 ** 11 }}",
        "{{ 'x'.center(10 ** 10) }}",
    ],
    ids=["width", "strftime", "join", "slices", "times", "center"],
)
def test_memory_has_a_limit_in_the_middle_of_a_call_into_c(template):
    tracemalloc.start()
    try:
        assert refusal(template) == "chat template: more than 256 MiB"
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()
    assert rendered("{{ 1 + 1 }}") == "2"


@LINUX
def test_the_limit_is_where_it_is_said_to_be():
    assert rendered("{{ ('a' * (150000000 + messages | length)) | length }}") == "150000000"
    assert "more than 256 MiB" in refusal("{{ ('a' * (280000000 + messages | length)) | length }}")


@pytest.mark.parametrize(
    "template",
    [
        "{{ range(40000) | reject('in', range(40000) | list) | list | length }}",
        "{{ ('a' * 800000) | trim('b' * 800000 ~ 'a') }}",
        "{{ 3 ** (3 ** 16) % 2 }}",
        FOREVER,
    ],
    ids=["reject", "trim", "power", "loop"],
)
def test_time_has_a_limit_in_the_middle_of_a_call_into_c(template, monkeypatch):
    monkeypatch.setattr(sandbox, "SECONDS", 0.3)
    assert refusal(template) == "chat template: more than 0.3 seconds"
    assert rendered("{{ 1 + 1 }}") == "2"


def test_a_prompt_has_a_limit():
    assert len(rendered("{{ 'é😀' * 2000000 }}")) == 4_000_000
    assert refusal("{{ 'é😀' * 2000000 }}x") == "chat template: 4,000,001 characters, more than 4,000,000"


GIVES_UP = """
import errno, os, runpy, socket, sys
renderer = runpy.run_path(sys.argv[1])
renderer["set_limits"]()
for attempt in (lambda: open(sys.argv[1]), socket.socket, os.pipe, lambda: os.listdir("/")):
    try:
        attempt()
        print("allowed")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""


@LINUX
def test_no_file_no_socket_and_no_pipe_can_be_opened():
    """What a template gets that has found a way out of Jinja's sandbox."""
    command = [sys.executable, "-c", GIVES_UP, str(renderer_file())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["EMFILE"] * 4, done


@LINUX
def test_it_inherits_three_pipes_and_no_secret(monkeypatch):
    monkeypatch.setenv("A_SECRET_KEY", "hush")
    RENDERER.stop()
    with open(__file__) as file:
        os.set_inheritable(file.fileno(), True)
        folder = Path(f"/proc/{pid()}")
        assert sorted(int(fd.name) for fd in (folder / "fd").iterdir()) == [0, 1, 2]
    assert b"A_SECRET_KEY" not in (folder / "environ").read_bytes()
    mapped = (folder / "maps").read_text()
    assert "jinja2" not in mapped and "numpy" not in mapped and "_multiarray" not in mapped  # Jinja is Python, and no library
    RENDERER.stop()


def test_it_imports_nothing_but_jinja_and_the_standard_library():
    tree = ast.parse(renderer_file().read_text())
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} - sys.stdlib_module_names == {"jinja2"}


def test_jinja_is_not_imported_here():
    assert in_python(
        "import sys; from minillm.model.tokenizer.sandbox import compile_template\n"
        "print(compile_template('{{ messages[0] }}')(messages=['hi']), 'jinja2' in sys.modules)"
    ) == ["hi", "False"]


# ---- one warm process


def test_one_process_serves_all_templates_until_it_fails(monkeypatch):
    first = pid()
    assert rendered("{{ a }}", a=1) == "1" and rendered("{{ b }}", b="\udfff") == "\udfff"
    refusal("{{ nothing.here }}")
    assert pid() == first, "an error of the template's is an answer"
    monkeypatch.setattr(sandbox, "SECONDS", 0.2)
    refusal(FOREVER)
    assert pid() != first


def test_a_template_leaves_nothing_for_the_next():
    rendered("{% set range = 1 %}{% set ns = namespace(x=1) %}{% macro m() %}{% endmacro %}")
    assert rendered("{{ range(2) | list }}{{ ns is defined }}{{ m is defined }}") == "[0, 1]FalseFalse"


def test_many_templates_do_not_pile_up():
    assert [rendered(f"{n}{{{{ x }}}}", x="a") for n in range(30)] == [f"{n}a" for n in range(30)]


def test_each_thread_gets_its_own_answer():
    answers = {}

    def ask(n):
        answers[n] = [rendered("{{ n }}:{{ i }}" + "x" * n * 1000, n=n, i=i) for i in range(10)]

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {n: [f"{n}:{i}" + "x" * n * 1000 for i in range(10)] for n in range(8)}


def test_one_that_was_killed_while_it_waited_is_replaced():
    first = pid()
    RENDERER.process.kill()
    while RENDERER.process.poll() is None:
        time.sleep(0.001)
    assert rendered("{{ 1 + 1 }}") == "2" and RENDERER.process.pid != first


def test_an_answer_that_was_interrupted_is_not_taken_for_the_next(monkeypatch):
    pid()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sandbox, "read", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        rendered("the first")
    assert rendered("the second") == "the second"


def test_where_pipes_cannot_be_waited_for_a_thread_ends_it(monkeypatch):
    """As on Windows."""
    monkeypatch.setattr(sandbox, "POLLS", False)
    assert rendered("{{ 'é' * 3 }}") == "ééé"
    monkeypatch.setattr(sandbox, "SECONDS", 0.3)
    dumps = json.dumps
    monkeypatch.setattr(sandbox.json, "dumps", lambda value: dumps(value | {"seconds": 60}))  # its own clock is of no help
    assert refusal(FOREVER) == "chat template: more than 0.3 seconds"
    monkeypatch.undo()
    assert rendered("{{ 1 + 1 }}") == "2"


def test_an_answer_in_time_by_a_hair_does_not_cost_the_next_request(monkeypatch):
    """The thread strikes after the answer was read, and before it could be stopped."""
    pid()

    class Strikes(threading.Timer):
        def cancel(self):
            self.function()
            monkeypatch.setattr(sandbox.time, "monotonic", lambda: float("inf"))
            super().cancel()

    with monkeypatch.context() as patch:
        patch.setattr(sandbox, "POLLS", False)
        patch.setattr(sandbox.threading, "Timer", Strikes)
        assert rendered("the first") == "the first"
    monkeypatch.undo()
    assert rendered("the second") == "the second"


def test_a_renderer_that_does_not_read_is_ended(monkeypatch, tmp_path):
    with_renderer(READY.replace("sys.stdin.buffer.read(20)", "import time; time.sleep(60)"), monkeypatch, tmp_path)
    monkeypatch.setattr(sandbox, "SECONDS", 0.3)
    with watchdog(60), pytest.raises(TokenizerError, match="more than 0.3 seconds"):
        rendered("x", value="x" * 1_000_000)


@pytest.mark.skipif(not hasattr(signal, "SIGINT") or os.name == "nt", reason="Control-C reaches a process group on POSIX")
def test_control_c_is_not_for_the_renderer():
    first = pid()
    os.kill(first, signal.SIGINT)
    assert pid() == first


# ---- its end


@LINUX
@pytest.mark.parametrize("end", ["pass", "import os; os._exit(0)", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
def test_it_ends_with_its_parent(end):
    code = "from minillm.model.tokenizer import sandbox\nsandbox.compile_template('x')()\n"
    (process_id,) = in_python(code + "print(sandbox.RENDERER.process.pid, flush=True)\n" + end)
    assert is_gone(process_id)


@LINUX
def test_it_ends_in_the_middle_of_a_rendering_though_its_parent_is_gone():
    code = (
        "import os, signal, threading\nfrom minillm.model.tokenizer import sandbox\nsandbox.SECONDS = 0.5\n"
        f"sandbox.compile_template('x')()\nprint(sandbox.RENDERER.process.pid, flush=True)\n"
        f"threading.Thread(target=sandbox.compile_template({FOREVER!r}), daemon=True).start()\n"
        "import time; time.sleep(0.2); os.kill(os.getpid(), signal.SIGKILL)"
    )
    (process_id,) = in_python(code)
    assert is_gone(process_id)


FORK = """
import os, sys
from minillm.model.tokenizer import sandbox
render = sandbox.compile_template("{{ who }}")
render(who="parent")
mine = sandbox.RENDERER.process.pid
child = os.fork()
if not child:
    print(render(who="child"), sandbox.RENDERER.process.pid != mine, flush=True)
    os._exit(0)
os.waitpid(child, 0)
print(render(who="parent"), sandbox.RENDERER.process.pid == mine)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_starts_its_own_and_leaves_its_parents_alone():
    assert in_python(FORK) == ["child", "True", "parent", "True"]


# ---- when it cannot be had, or lies


def with_renderer(code, monkeypatch, tmp_path):
    """From now on this is the program that renders."""
    RENDERER.stop()
    (tmp_path / "renderer.py").write_text(code)
    monkeypatch.setattr(sandbox, "renderer_file", lambda: tmp_path / "renderer.py")


READY = "import sys\nsys.stdout.buffer.write(b'r' + bytes(8)); sys.stdout.flush(); sys.stdin.buffer.read(20)\n"


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise SystemExit(3)", "ended with status 3"),
        ("print('hello, I am something else')", "bytes, more than 16,000,000"),
        ("import time; time.sleep(60)", "more than 0.4 seconds"),
        (READY + "sys.stdout.buffer.write(b't' + b'\\x7f' * 8)", "bytes, more than 16,000,000"),
        (READY + "sys.stdout.buffer.write(b't' + bytes(7) + b'\\x05abc')", "ended with status 0"),
        (READY + "sys.stdout.buffer.write(b't' + bytes(7) + b'\\x02\\xff\\xff')", "is not UTF-8"),
        (READY + "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended with status -11"),
        (READY + "sys.stdin.close(); import time; time.sleep(60)", "more than 0.4 seconds"),
    ],
    ids=["exits", "else", "never ready", "too long", "half", "no text", "crashes", "silent"],
)
def test_whatever_the_process_does_the_caller_gets_one_line(code, says, monkeypatch, tmp_path):
    monkeypatch.setattr(sandbox, "SECONDS", 0.4)
    monkeypatch.setattr(sandbox, "START_SECONDS", 20.0 if code.startswith(READY) or "sleep" not in code else 0.4)
    with_renderer(code, monkeypatch, tmp_path)
    said = refusal("x")
    assert says in said and "\n" not in said
    assert RENDERER.process is None


@pytest.mark.parametrize("executable", ["", None, "/no/such/python"])
def test_without_a_process_nothing_is_rendered(executable, monkeypatch):
    RENDERER.stop()
    monkeypatch.setattr(sys, "executable", executable)
    said = refusal("x")
    assert "a Python to run them" in said if not executable else "no process could be started" in said


@pytest.mark.parametrize("value", [object(), b"x", {1, 2}, {(1, 2): 3}, 10**5000], ids=range(5))
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(TokenizerError, match="as JSON has them"):
        rendered("x", value=value)


def test_messages_nested_without_end_are_refused():
    deep = []
    deep.append(deep)
    with pytest.raises(TokenizerError, match="as JSON has them"):
        rendered("x", value=deep)
