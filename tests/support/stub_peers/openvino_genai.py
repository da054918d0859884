"""OpenVINO GenAI's continuous batching: every step adds a token to every request."""

from types import SimpleNamespace

from stub_log import following, note


class SchedulerConfig:
    enable_prefix_caching = True
    max_num_batched_tokens = 256


class GenerationConfig:
    pass


class Handle:
    def __init__(self, prompt, count):
        self.text, self.count, self.generated_ids = list(prompt), count, []

    def read_all(self):
        return [self]


class ContinuousBatchingPipeline:
    def __init__(self, path, scheduler, device, properties):
        note("OpenVINO", path=path, device=device, prefix=scheduler.enable_prefix_caching, **properties)
        self.most, self.open, self.seen = scheduler.max_num_batched_tokens, [], set()

    def add_request(self, number, tensor, config):
        assert config.ignore_eos and not config.do_sample and number not in self.seen
        self.seen.add(number)
        note("prompt", tokens=tensor.rows[0], steps=config.max_new_tokens)
        self.open.append(Handle(tensor.rows[0], config.max_new_tokens))
        assert sum(len(handle.text) for handle in self.open) <= self.most
        return self.open[-1]

    def has_non_finished_requests(self):
        return bool(self.open)

    def step(self):
        for handle in self.open:
            handle.generated_ids.append(following(handle.text))
            handle.text.append(handle.generated_ids[-1])
        self.open = [handle for handle in self.open if len(handle.generated_ids) < handle.count]
        return SimpleNamespace()
