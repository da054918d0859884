"""xllamacpp's server, in a thread as theirs: it answers by the clock."""

import asyncio
import threading
from types import SimpleNamespace

from mock_openai import MockServer
from stub_log import note


def get_system_info():
    return "CPU : AVX2 = 1 | AVX512 = 0 | FMA = 1 | OPENMP = 1 | "


class CommonParams(SimpleNamespace):
    def __init__(self):
        super().__init__(model=SimpleNamespace(), cpuparams=SimpleNamespace(), cpuparams_batch=SimpleNamespace())


class Server:
    def __init__(self, params):
        plain = {name: value for name, value in vars(params).items() if isinstance(value, (int, str))}
        note("llama.cpp server", path=params.model.path, threads=params.cpuparams.n_threads, **plain)
        self.listening_address = f"http://127.0.0.1:{params.port}"
        threading.Thread(target=lambda: asyncio.run(self.serve(params.port)), daemon=True).start()

    async def serve(self, port):
        async with MockServer(tokens=3, port=port):
            await asyncio.Event().wait()
