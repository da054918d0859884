"""How each server is started, ours and others', each in a process of its own with all that it needs told on its command line."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass

from minillm.bench.peers import SERVERS
from minillm.bench.peers.environments import command, python_with
from minillm.bench.peers.models import rounding
from minillm.bench.peers.vllm_cpu import VARIABLES, cores
from minillm.bench.worker import THREAD_VARIABLES, bfloat16_folder
from minillm.errors import MiniLLMError

STARTS_IN_S = 900  # vLLM compiles first
OURS = "minillm"
ROOM = 64  # tokens of a sequence beside prompt and answer
PROBE = 128  # and at least so many: the load generator asks with 96 how the server counts


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent in a round."""

    concurrency: int
    requests: int
    prompt_tokens: int
    new_tokens: int

    @property
    def room(self):  # tokens of a sequence
        return max(PROBE, self.prompt_tokens + self.new_tokens + ROOM)


@dataclass
class Running:
    """A server that answers. start_s: from its start to its first answer."""

    url: str
    start_s: float
    precision: str


def minillm(path, port, threads, load, ours):  # -> command, variables, its precision
    options = {"model": path, "port": port, "threads": threads, "max-sequences": load.concurrency, **ours}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    packed = rounding(ours["backend"], ours["activations"])
    return command(sys.executable, "minillm", "serve", *words), {}, f"float32, {packed}keys and values in {ours['kv']}"


def llama_cpp(path, port, threads, load, ours):
    call = command(python_with(SERVERS["llama.cpp"].needs), "minillm.bench.peers.llama_server")
    built_for = subprocess.run(call, capture_output=True, text=True).stdout.strip()
    words = map(str, (path, port, threads, load.concurrency, load.room))
    return [*call, *words], {}, f"activations rounded to 8 bits beside packed weights; built for {built_for}"


def vllm(path, port, threads, load, ours):
    options = {"--model": path, "--port": port, "--host": "127.0.0.1", "--dtype": "bfloat16", "--served-model-name": "vllm"}
    options |= {"--max-num-seqs": load.concurrency, "--generation-config": "vllm"}
    words = [str(word) for pair in options.items() for word in pair]
    python = python_with(SERVERS["vLLM"].needs)
    variables = VARIABLES | {"VLLM_CPU_OMP_THREADS_BIND": cores(threads), "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    call = [python, "-m", "vllm.entrypoints.openai.api_server", *words, "--no-enable-prefix-caching"]
    return call, variables, "bfloat16"


STARTS = {OURS: minillm, "llama.cpp": llama_cpp, "vLLM": vllm}


@contextlib.contextmanager
def serving(name, path, threads, load, ours):  # -> Running, while the block runs
    """Start a server, wait until it answers, kill it at the end. MiniLLMError if it ends, or takes too long."""
    with contextlib.ExitStack() as stack:
        if name in SERVERS and SERVERS[name].folder:
            path = stack.enter_context(bfloat16_folder(path, tokenizer=True))
        port, variables = free_port(), dict.fromkeys(THREAD_VARIABLES, str(threads))
        call, more, precision = STARTS[name](str(path), port, threads, load, ours)
        out = 2 if os.environ.get("MINILLM_DEBUG") else subprocess.DEVNULL  # standard output is for the result
        session = {"start_new_session": True} if os.name == "posix" else {}  # its children end with it
        began = time.perf_counter()
        process = subprocess.Popen(call, stdout=out, stderr=out, env=os.environ | variables | more, **session)
        stack.callback(end, process)
        url = f"http://127.0.0.1:{port}"
        while not answers(f"{url}/v1/models"):
            if process.poll() is not None:
                raise MiniLLMError(f"{name}: the server ended with status {process.returncode}; MINILLM_DEBUG=1 shows why.")
            if time.perf_counter() - began > STARTS_IN_S:
                raise MiniLLMError(f"{name}: the server does not answer after {STARTS_IN_S} s; MINILLM_DEBUG=1 shows why.")
            time.sleep(0.1)
        yield Running(url, time.perf_counter() - began, precision)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(url):  # -> bool
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
        return answer.status == 200
    return False


def end(process):
    """Kill a server with all that it started."""
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
    process.kill()
    process.wait()
