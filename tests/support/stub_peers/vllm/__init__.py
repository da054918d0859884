"""vLLM's engine: a step reads one prompt, and adds a token to every text that it has read. So the first is ahead of the last."""

import os
from pathlib import Path
from types import SimpleNamespace

from stub_log import following, note


class SamplingParams:
    def __init__(self, **options):
        self.__dict__.update(options)


class Engine:
    def __init__(self):
        self.requests, self.read = {}, []

    def add_request(self, number, prompt, params):
        assert params.ignore_eos and params.temperature == 0 and number not in self.requests
        note("prompt", tokens=prompt["prompt_token_ids"], steps=params.max_tokens)
        self.requests[number] = SimpleNamespace(text=list(prompt["prompt_token_ids"]), new=[], most=params.max_tokens)

    def step(self):
        self.read += [number for number in self.requests if number not in self.read][:1]
        outputs = []
        for number in self.read:
            request = self.requests[number]
            assert len(request.new) < request.most, "a sequence ended before the slowest had its tokens"
            request.new.append(following(request.text))
            request.text.append(request.new[-1])
            outputs.append(SimpleNamespace(request_id=number, outputs=[SimpleNamespace(token_ids=list(request.new))]))
        return outputs

    def abort_request(self, numbers):
        for number in numbers:
            self.requests.pop(number)
        self.read = [number for number in self.read if number in self.requests]

    def has_unfinished_requests(self):
        return bool(self.requests)


class LLM:
    def __init__(self, **options):
        variables = {name: value for name, value in os.environ.items() if name.startswith("VLLM_")}
        note("vLLM", variables=variables, files=sorted(path.name for path in Path(options["model"]).iterdir()), **options)
        self.llm_engine = Engine()
