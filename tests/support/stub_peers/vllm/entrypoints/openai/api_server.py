"""vLLM's server: it answers by the clock, whatever it is asked."""

import asyncio
import os
import sys
from pathlib import Path

from mock_openai import MockServer
from stub_log import note


async def main(port, model):
    note("vLLM server", arguments=sys.argv[1:], files=sorted(os.listdir(model)), session=os.getsid(0) == os.getpid())
    async with MockServer(tokens=3, port=port):
        await asyncio.Event().wait()


if __name__ == "__main__":
    options = dict(zip(sys.argv[1:], sys.argv[2:], strict=False))
    asyncio.run(main(int(options["--port"]), Path(options["--model"])))
