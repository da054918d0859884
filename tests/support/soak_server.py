"""A server under strangers: thousands of requests, many at once, most of them well meant, some broken, some broken off.

    python tests/support/soak_server.py [--requests 10000] [--connections 1000] [--model FILE]

The server is `minillm serve` in a process of its own. Before the storm each well-meant request is asked once in peace; in the
storm its answer must be the same, whatever runs beside it. Prints one JSON object, and fails where anything was not a right
answer or a proper error, where blocks stay in use, or where the server's memory grew.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path[:0] = map(str, (Path(__file__).parent, Path(__file__).parents[2]))
PATIENCE_S = 120  # for one request: beyond it, a hang
ASK = 24  # different well-meant requests
PROPER = {400, 404, 405, 408, 413, 415, 429, 503, 504}


def well_meant(k):  # -> path, body
    """Greedy and seeded, completions and chats, short and long."""
    body = {"max_tokens": 3 + 2 * (k % 13), "ignore_eos": True} | ({"temperature": 0} if k % 3 else {"temperature": 1, "seed": k})
    text = "in the storm " * (k % 9 + 1)
    if k % 4 == 3:
        return "/v1/chat/completions", {"messages": [{"role": "user", "content": text}], **body}
    return "/v1/completions", {"prompt": f"{k} {text}", "n": 1 + (k % 5 == 0), **body}


BROKEN = [
    b"",
    b"{",
    b'{"prompt": "a"',
    b"\xff\xfe{}",
    b'{"prompt": "\xc3\x28"}',
    b'{"prompt": NaN}',
    b'{"prompt": 5}',
    b'{"prompt": "a", "max_tokens": "many"}',
    b'{"prompt": "a", "n": 1e400}',
    b'{"prompt": "\\ud800"}',
    b'{"prompt": "a", "temperature": []}',
    b'{"prompt": "a", "tools": [1]}',
    b'{"prompt": "a", "nothing": 1}',
    b"[" * 50_000,
    b'{"prompt": [1, 2, -3]}',
    b'{"prompt": ["a", 1]}',
    b'{"messages": "hello"}',
    json.dumps({"prompt": "long " * 5000}).encode(),
    json.dumps({"prompt": [1] * 100_000}).encode(),
    b'{"prompt": "' + b"x" * (1 << 20) + b'"}',
    b'{"prompt": "a", "model": "other"}',
    b'{"prompt": "a", "max_tokens": 99999}',
]
NOT_HTTP = [
    b"\x16\x03\x01\r\n\r\n",
    b"GET / HTTP/9.9\r\nConnection: close\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    b"\r\n\r\n\r\nhello\r\n\r\n",
]


class Storm:
    """Everything that is sent, and what came back. faults: whatever must not be."""

    def __init__(self, port, seed):
        self.port, self.rng = port, random.Random(seed)
        self.counts, self.faults, self.quiet, self.open, self.most_open = Counter(), [], {}, 0, 0

    async def talk(self, data, leave=None, then=b""):  # -> bytes, or None after leaving
        """Send, and read to the end of the answer. leave: seconds after which the connection is cut."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            writer.write(data)
            if leave is not None:
                await asyncio.sleep(leave)
                writer.transport.abort()  # a reset, as of a process that was killed
                return None
            await writer.drain()
            return await reader.read()
        except (ConnectionResetError, BrokenPipeError):
            return b""
        finally:
            self.open -= 1
            writer.close()

    def http(self, path, body, whole=True):  # -> bytes
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
        sent = f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data
        return sent if whole else sent[: self.rng.randrange(len(sent))]

    async def one(self, k):
        """One request of some kind, checked."""
        draw, which = self.rng.random(), self.rng.randrange(ASK)
        path, body = well_meant(which)
        if draw < 0.6:
            stream = self.rng.random() < 0.5
            kind, sent = ("stream" if stream else "whole"), self.http(path, body | {"stream": stream})
        elif draw < 0.75:
            kind, sent = "broken body", self.http(path, self.rng.choice(BROKEN))
        elif draw < 0.8:
            kind, sent = "not http", self.rng.choice(NOT_HTTP)
        else:
            kind = "left early" if draw < 0.95 else "left while sending"
            sent = self.http(path, body | {"stream": self.rng.random() < 0.5, "max_tokens": 100}, whole=draw < 0.95)
        try:
            answer = await asyncio.wait_for(self.talk(sent, self.rng.random() if kind.startswith("left") else None), PATIENCE_S)
        except TimeoutError:
            return self.fault(kind, "hangs", sent)
        if answer is None:
            self.counts[kind] += 1
            return None
        status, found = self.understood(answer)
        self.counts[f"{kind}: {status}"] += 1
        if kind in ("stream", "whole") and status == 200:
            good = found == self.quiet[which]
        else:
            good = status in PROPER and isinstance(found, dict) and "message" in found.get("error", {})
        if not good and not (kind == "not http" and answer == b""):
            self.fault(kind, answer[-300:], sent)
        return None

    def fault(self, kind, found, sent):
        self.faults.append((kind, str(found)[:300], str(sent)[:300]))

    def understood(self, answer):  # -> status, [text of each choice] or an error
        """A whole answer, or a stream put together."""
        head, _, body = answer.partition(b"\r\n\r\n")
        status = int(head.split()[1]) if head.startswith(b"HTTP/1.1 ") else None
        if b"text/event-stream" not in head:
            values = json.loads(body) if body else None
            if status != 200:
                return status, values
            return status, [c.get("text", c.get("message", {}).get("content")) for c in values["choices"]]
        pieces = [line[6:] for line in dechunked(body).split(b"\n\n") if line]
        if pieces[-1] != b"[DONE]":
            return 503, json.loads(pieces[-1])  # an error after the beginning
        texts = {}
        for choice in (c for piece in pieces[:-1] for c in json.loads(piece)["choices"]):
            texts[choice["index"]] = texts.get(choice["index"], "") + choice.get("text", choice.get("delta", {}).get("content"))
        return status, [texts[i] for i in sorted(texts)]


def dechunked(body):
    """HTTP's chunked encoding, undone."""
    data = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        if not (count := int(size, 16)):
            break
        data, body = data + body[:count], body[count + 2 :]
    return data


def resident_bytes(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


async def gauge(storm, name):
    page = await storm.talk(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    return float(next(line for line in page.decode().splitlines() if line.startswith(f"minillm_{name} ")).split()[1])


async def soak(port, pid, requests, connections, seed=0):  # -> dict
    storm = Storm(port, seed)
    for which in range(ASK):
        path, body = well_meant(which)
        status, storm.quiet[which] = storm.understood(await storm.talk(storm.http(path, body)))
        assert status == 200, storm.quiet[which]
    begin, resident, waiting, next_ = time.monotonic(), {}, set(), 0
    marks = {requests // 5, requests}
    while next_ < requests or waiting:
        while next_ < requests and len(waiting) < connections:
            waiting.add(asyncio.create_task(storm.one(next_)))
            next_ += 1
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        if (ended := next_ - len(waiting)) >= min(marks, default=requests + 1):
            marks.discard(min(marks))
            resident[ended] = resident_bytes(pid)
    seconds = time.monotonic() - begin
    for _ in range(500):  # those who left last are cancelled within a moment
        if (blocks := await gauge(storm, "kv_blocks_used")) == 0 == await gauge(storm, "requests_running"):
            break
        await asyncio.sleep(0.01)
    for which in range(ASK):  # in peace again, still the same
        path, body = well_meant(which)
        if storm.understood(await storm.talk(storm.http(path, body)))[1] != storm.quiet[which]:
            storm.fault("after", which, body)
    return {
        "requests": requests,
        "seconds": round(seconds, 1),
        "most_connections": storm.most_open,
        "faults": len(storm.faults),
        "first_faults": storm.faults[:5],
        "kv_blocks_used": blocks,
        "resident_bytes": resident,
        "resident_at_end": resident_bytes(pid),
        "counts": dict(sorted(storm.counts.items())),
    }


def main(requests=10_000, connections=1000, model=None, options=()):  # -> dict
    """Start a server, let the storm pass, stop the server."""
    with tempfile.TemporaryDirectory() as folder:
        if model is None:
            from golden.tiny_models import write_tiny

            model = Path(folder, "tiny.gguf")
            write_tiny("llama", model)
        command = [
            sys.executable,
            "-m",
            "minillm",
            "serve",
            "--model",
            str(model),
            "--port",
            "0",
            "--json",
            "--prefix",
            "none",
            *options,
        ]
        log = Path(folder, "log")
        with log.open("wb") as err:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err)
        try:
            address = json.loads(process.stdout.readline())
            result = asyncio.run(soak(address["port"], process.pid, requests, connections))
            process.send_signal(signal.SIGTERM)
            result["exit_status"] = process.wait(PATIENCE_S)
        finally:
            process.kill()
            process.wait()
        result["tracebacks"] = log.read_text().count("Traceback")
        if result["tracebacks"]:
            result["log"] = log.read_text()[-3000:]
        return result


def check(result):
    """What must hold. Memory may not grow after a fifth of the storm: by a tenth, for the allocator's sake."""
    early, late = result["resident_bytes"][min(result["resident_bytes"])], result["resident_at_end"]
    assert result["faults"] == 0, result["first_faults"]
    assert result["kv_blocks_used"] == 0 == result["exit_status"] == result["tracebacks"], result
    assert late < 1.1 * early + 2**24, f"{early:,} bytes early on, {late:,} at the end"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--model")
    args, rest = parser.parse_known_args()
    os.environ.setdefault("PYTHONPATH", str(Path(__file__).parents[2]))
    from minillm.server.listen import raise_file_limit

    raise_file_limit()
    outcome = main(args.requests, args.connections, args.model, rest)
    print(json.dumps(outcome, indent=1))
    check(outcome)
