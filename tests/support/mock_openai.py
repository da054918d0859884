"""A server that answers by the clock: it waits `ttft`, then sends a token every `gap`. As a script it is a server to compare
load generators on, since what they should report is known:

    python tests/support/mock_openai.py --port 8123 --ttft 0.05 --gap 0.01 --tokens 20

In a test it runs in the test's own event loop, and `behave` may say any bytes, or nothing, instead.
"""

import argparse
import asyncio
import json


def event(fields):
    return b"data: " + (fields if isinstance(fields, bytes) else json.dumps(fields).encode()) + b"\n\n"


def framed(data):
    """As one chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def answer(status, data, kind="application/json", reason="OK"):
    data = data if isinstance(data, bytes) else json.dumps(data).encode()
    return f"HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"


class MockServer:
    """async with MockServer(...) as server: server.url. What was asked is in server.asked: (path, headers, fields)."""

    def __init__(self, ttft=0.0, gap=0.0, tokens=20, behave=None, port=0, overhead=0, models=("mock",)):
        self.ttft, self.gap, self.tokens, self.behave = ttft, gap, tokens, behave
        self.port, self.overhead, self.models = port, overhead, models
        self.asked, self.connections, self.left = [], 0, 0

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", self.port, limit=1 << 24)
        self.port = self.server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_):
        self.server.close()

    async def serve(self, reader, writer):
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in head[1:])}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                path, fields = head[0].split()[1], json.loads(body) if body else {}
                self.asked.append((path, headers, fields))
                if path.endswith("/models"):
                    models = [{"id": name, "object": "model"} for name in self.models]
                    writer.write(answer(200, {"object": "list", "data": models}))
                elif path == "/health":
                    writer.write(answer(200, {}))
                elif self.behave and await self.behave(self, writer, fields):
                    pass
                elif path.endswith("/completions"):
                    await self.stream(writer, fields, "chat" in path)
                else:
                    writer.write(answer(404, {"error": {"message": f"no such path: {path}"}}))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):  # the last: the test is over
            self.left += 1
        finally:
            writer.close()

    def prompt_tokens(self, fields):
        prompt = fields.get("prompt")
        if prompt is None:
            content = [m["content"] for m in fields["messages"]]
            prompt = " ".join(c if isinstance(c, str) else " ".join(p.get("text", "") for p in c) for c in content)
        return self.overhead + len(prompt.split() if isinstance(prompt, str) else prompt)

    async def stream(self, writer, fields, chat):
        count = min(fields.get("max_tokens") or fields.get("max_completion_tokens") or self.tokens, self.tokens)
        common = {"id": "x", "created": 0, "model": fields.get("model")}
        common["object"] = "chat.completion.chunk" if chat else "text_completion"
        usage = {"prompt_tokens": self.prompt_tokens(fields), "completion_tokens": count}
        usage["total_tokens"] = sum(usage.values())
        if not fields.get("stream"):
            await asyncio.sleep(self.ttft + (count - 1) * self.gap)
            text = {"message": {"role": "assistant", "content": "tok " * count}} if chat else {"text": "tok " * count}
            writer.write(answer(200, {**common, "choices": [{"index": 0, **text, "finish_reason": "length"}], "usage": usage}))
            return
        loop = asyncio.get_running_loop()
        start = loop.time()
        for i in range(count):
            await asyncio.sleep(max(0, start + self.ttft + i * self.gap - loop.time()))
            piece = {"delta": {"content": "tok "}} if chat else {"text": "tok "}
            finish = "length" if i == count - 1 else None
            data = framed(event({**common, "choices": [{"index": 0, **piece, "finish_reason": finish}]}))
            writer.write(data if i else STREAM + data)
            await writer.drain()
        if (fields.get("stream_options") or {}).get("include_usage"):
            writer.write(framed(event({**common, "choices": [], "usage": usage})))
        writer.write(framed(event(b"[DONE]")) + b"0\r\n\r\n")


async def main():
    parser = argparse.ArgumentParser()
    for name, default in (("port", 8123), ("ttft", 0.05), ("gap", 0.01), ("tokens", 20)):
        parser.add_argument(f"--{name}", type=type(default), default=default)
    async with MockServer(**vars(parser.parse_args())) as server:
        print(server.url, flush=True)
        await server.server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
