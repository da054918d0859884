"""llama.cpp's own server, which the package xllamacpp carries, in the peer's python.

    python -m minillm.bench.peers.llama_server                                   says what it was built for
    python -m minillm.bench.peers.llama_server PATH PORT THREADS SLOTS TOKENS    serves; a slot is a sequence of so many tokens

Prompts are not kept, as every one of the load is new. The wheels from PyPI are built for any x86 with AVX2; a build of one's own
uses more.
"""

import sys
import threading

from minillm.bench.peers.models import built_for


def main(path=None, port=0, threads=1, slots=1, tokens=0):
    """Serve until killed."""
    import xllamacpp

    if path is None:
        print(built_for(xllamacpp.get_system_info()))
        return
    params = xllamacpp.CommonParams()
    params.model.path, params.port, params.hostnames = path, int(port), ["127.0.0.1"]
    params.n_parallel, params.n_ctx = int(slots), int(slots) * int(tokens)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(threads)
    params.cache_prompt, params.cache_ram_mib, params.ui = False, 0, False
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)  # it listens as long as it is held
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
