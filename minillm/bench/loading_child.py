"""The measured process of `minillm bench loading`: import, wait, load the model one way, compute a token, say what that took.

A line on standard input starts it, each further one asks for its memory again; it answers in lines of JSON.

Memory is counted beyond what the process has after its imports, so it is the model's: weights, one token's activations and cache.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any


def main(way: str, path: Path, prompt_tokens: int) -> None:
    import numpy as np

    from minillm.backends import get_backend
    from minillm.bench import proc
    from minillm.bench.in_place import in_place
    from minillm.errors import MiniLLMError
    from minillm.formats.gguf_split import named_parts
    from minillm.model.load import load_from
    from minillm.model.transformer import Segment

    ops = in_place(copied=way == "read") if way in ("mapped", "read") else get_backend(way)
    files = [str(part) for part in named_parts(path)]

    def tell(**values: Any) -> None:
        print(json.dumps(values), flush=True)

    tell(ready=True)
    sys.stdin.readline()
    before, counted, start = proc.memory(files), proc.counts(), time.perf_counter()
    try:
        transformer, _ = load_from(path, ops)
        loaded = time.perf_counter()
        prompt = np.arange(prompt_tokens) % transformer.config.vocab_size
        cache = transformer.new_cache(min(prompt_tokens + 1, transformer.config.context_length))
        logits = transformer.forward([Segment(prompt[: transformer.config.context_length], 0, cache)])[0]
        token = int(ops.download(ops.most_likely(logits))[-1])
    except MiniLLMError as error:
        return tell(error=str(error))
    ended = time.perf_counter()
    after = {name: value - counted[name] for name, value in proc.counts().items()}

    def taken() -> dict[str, int]:
        return {name: value - before[name] for name, value in proc.memory(files).items()}

    tell(load_s=loaded - start, ttft_s=ended - start, token=token, **after, **taken())
    while sys.stdin.readline():
        tell(**taken())
    return None


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
