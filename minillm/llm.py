"""The front door: `LLM` loads a model once, then answers prompts.

    llm = LLM("tiny")
    print(llm.generate("Once upon a time").text)
    for piece in llm.stream("Once upon a time", SamplingParams(temperature=0.8, seed=1)): ...
    for piece in llm.stream(llm.chat([{"role": "user", "content": "Hello"}])): ...
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import PathLike
from typing import overload

import numpy as np

from minillm.cache.protocol import KVCache
from minillm.errors import RequestError
from minillm.metrics.events import EventLog, summary
from minillm.model.adapters import LoadedAdapter, prepare
from minillm.model.generate import Prompt, SequenceState, as_prompt_list, check_prompt, generate_tokens, prompt_ids
from minillm.model.load import load_model
from minillm.model.logprobs import TokenLogprob
from minillm.model.lora import Adapter
from minillm.model.params import SamplingParams
from minillm.model.tokenizer import Tokenizer
from minillm.model.transformer import Transformer

Source = str | PathLike | tuple[Transformer, Tokenizer]  # where a model comes from
Batch = list[str] | list[list[int]] | list[np.ndarray]  # prompts that decode together
Named = str | None | list[str | None]  # an adapter for all prompts, or one for each


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished request. metrics: ttft_s, tpot_s, tokens per second and the rest of `minillm.metrics.events.summary`.

    stop_reason: the stop string or the stop token that ended it, None where neither did. prompt_logprobs: one for each token
    of the prompt, None for the first; None altogether where SamplingParams did not ask.
    """

    text: str
    token_ids: list[int]
    prompt_token_ids: list[int]
    finish_reason: str  # "stop": end of text or a stop string; "length": max_tokens or the context
    logprobs: list[TokenLogprob]
    metrics: dict[str, float | None]  # None: what an answer this short does not have
    stop_reason: str | int | None = None
    prompt_logprobs: list[TokenLogprob | None] | None = None


class LLM:
    """A loaded model.

    model: a name from the zoo, a path to a .gguf file, "hf:ORG/REPO/FILE.gguf", or a folder with config.json and
    safetensors; or a pair of transformer and tokenizer that are made already, such as `random_model()`.
    backend: see `minillm backends`. kv: what keys and values are kept in: "float32", "float16" for half the bytes, rounded, or a
    quantized format (cache/kinds.py): "int8", "int4", "fp8", "rot4", "kivi2", "kivi4". None: float32, or a given pair's own.
    adapters: {name: a PEFT folder, a GGUF adapter, or a training.lora.Adapter}; each request says which it wants, or none.
    activations: "exact", or "int8": rounded to 8 bits before products with packed weights, faster on numba (exact where None).
    Errors: ModelError, GGUFError.
    """

    def __init__(
        self, model: Source = "tiny", backend: str | None = None, kv: str | None = None, adapters: dict | None = None,
        activations: str | None = None,
    ) -> None:
        self.source = None if isinstance(model, tuple) else model  # where it came from: default_sampling looks there
        loaded = model if isinstance(model, tuple) else load_model(model, backend, kv or "float32", activations or "exact")
        self.transformer, self.tokenizer = loaded
        if isinstance(model, tuple) and kv is not None:
            self.transformer = self.transformer.with_kv(kv)
        if activations not in (None, self.transformer.ops.activations):
            held = self.transformer.ops.activations
            raise RequestError(f"activations are chosen when weights are loaded; these are {held!r}, not {activations!r}.")
        self.config = self.transformer.config
        self.tokenizer.pad_to(self.config.vocab_size)
        self.adapters = {name: self.load_adapter(source) for name, source in (adapters or {}).items()}

    def load_adapter(self, source: str | PathLike | Adapter) -> LoadedAdapter:
        """Load an adapter, and check it against this model."""
        from minillm.model.adapter_files import load_adapter
        from minillm.model.lora import Adapter, check_adapter

        if isinstance(source, Adapter):
            check_adapter(self.config, source, "adapter")
        else:
            source = load_adapter(source, self.config)
        return prepare(source, self.config.n_layers, self.transformer.ops)

    def adapter(self, name: str | None) -> LoadedAdapter | None:
        """Find the adapter that a request named. RequestError for an unknown one."""
        if name is not None and (not isinstance(name, str) or name not in self.adapters):
            known = ", ".join(map(repr, self.adapters)) or "none"
            raise RequestError(f"no adapter is called {name!r}; there are: {known}.")
        return self.adapters.get(name)

    @overload
    def generate(
        self, prompts: Prompt, params: SamplingParams | None = None, truncate: str | None = None, adapter: Named = None
    ) -> Completion: ...

    @overload
    def generate(
        self, prompts: Batch, params: SamplingParams | None = None, truncate: str | None = None, adapter: Named = None
    ) -> list[Completion]: ...

    def generate(
        self,
        prompts: Prompt | Batch,
        params: SamplingParams | None = None,
        truncate: str | None = None,
        adapter: Named = None,
    ) -> Completion | list[Completion]:
        """Complete each prompt; several decode together as one batch. A single prompt gives a single Completion.

        adapter: the name of one for all, or a list with a name or None for each prompt.
        """
        (batch, single), log = as_prompt_list(prompts), EventLog()
        names = adapter if isinstance(adapter, list) else [adapter] * len(batch)
        if len(names) != len(batch):
            raise RequestError(f"adapters are named once, or for each of {len(batch):,} prompts; found {len(names):,} names.")
        pairs = enumerate(zip(batch, names, strict=True))
        sequences = [self.sequence(i, prompt, params, truncate, adapter=name) for i, (prompt, name) in pairs]
        for _ in generate_tokens(self.transformer, self.tokenizer.eos_ids, sequences, log):
            pass
        completions = [completion(s, log) for s in sequences]
        return completions[0] if single else completions

    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        truncate: str | None = None,
        on_finish: Callable[[Completion], object] | None = None,
        adapter: str | None = None,
    ) -> Iterator[str]:
        """Yield text as it is made. on_finish, if given, is called with the Completion at the end, or when the caller
        stops early (finish_reason "cancelled")."""
        log = EventLog()
        sequence = self.sequence(0, prompt, params, truncate, adapter=adapter)
        try:
            for _, piece in generate_tokens(self.transformer, self.tokenizer.eos_ids, [sequence], log):
                if piece:
                    yield piece
        finally:
            if on_finish:
                on_finish(completion(sequence, log))

    def chat(self, messages: list[dict[str, str]]) -> list[int]:
        """Turn a conversation into a prompt with the file's chat template. Text of a message cannot forge a role."""
        return self.tokenizer.apply_chat_template(messages)

    def sequence(
        self,
        request: int,
        prompt: Prompt,
        params: SamplingParams | None = None,
        truncate: str | None = None,
        cache: KVCache | None = None,
        adapter: str | None = None,
    ) -> SequenceState:
        """Make a request ready to run. cache: where its keys and values go (PageStore.new_cache); by default a new one."""
        params, loaded = params or SamplingParams(), self.adapter(adapter)
        ids = prompt_ids(self.tokenizer, prompt)
        ids = check_prompt(ids, self.config.context_length, params.max_tokens, truncate)
        params.check_vocabulary(self.config.vocab_size)
        cache = self.transformer.new_cache(len(ids) + params.max_tokens) if cache is None else cache
        text = self.tokenizer.stream(ids, params.skip_special_tokens)
        return SequenceState(request, ids, params, cache, text, adapter=loaded)


def completion(sequence: SequenceState, log: EventLog, index: int | None = None) -> Completion:
    """Make the Completion of a sequence. index: which of its request's answers it is, where there are several."""
    return Completion(
        text=sequence.text,
        token_ids=sequence.token_ids,
        prompt_token_ids=sequence.prompt_token_ids,
        finish_reason=sequence.finish_reason or "cancelled",
        logprobs=sequence.logprobs,
        metrics=summary(log, sequence.request, index),
        stop_reason=sequence.stop_reason,
        prompt_logprobs=sequence.prompt_logprobs,
    )


class Conversation:
    """A chat that keeps its KV cache between turns.

    The next prompt repeats the whole conversation, so most of it is in the cache already: keep the longest common
    beginning, truncate the rest, and prefill only what is new.
    """

    def __init__(self, llm: LLM, system: str | None = None, adapter: str | None = None) -> None:
        self.llm, self.adapter = llm, adapter
        self.messages = [{"role": "system", "content": system}] if system else []
        self.cache = llm.transformer.new_cache()
        self.cached_ids: list[int] = []  # whose keys and values it holds
        self.reused = 0  # tokens of the last prompt that were not computed again
        self.last: Completion | None = None

    def say(self, text: str, params: SamplingParams | None = None, truncate: str | None = None) -> Iterator[str]:
        """Add a user's message and stream the answer, which joins the conversation, even if the caller stops early."""
        prompt = self.llm.chat([*self.messages, {"role": "user", "content": text}])
        log = EventLog()
        sequence = self.llm.sequence(0, prompt, params, truncate, adapter=self.adapter)
        ids = sequence.prompt_token_ids
        pairs = enumerate(zip(ids, self.cached_ids, strict=False))
        common = next((i for i, (a, b) in pairs if a != b), min(len(ids), len(self.cached_ids)))
        self.reused = min(common, len(ids) - 1)  # the last token must run: its logits choose the answer's first
        if sequence.params.prompt_logprobs is not None:
            self.reused = 0  # and the logits of all positions are wanted
        self.reused = self.cache.truncatable(self.reused)
        self.cache.truncate(self.reused)
        sequence.cache = self.cache
        try:
            for _, piece in generate_tokens(self.llm.transformer, self.llm.tokenizer.eos_ids, [sequence], log):
                if piece:
                    yield piece
        finally:
            self.cache.truncate(self.cache.length)  # an interrupted step leaves early layers ahead of late ones
            self.cached_ids = (ids + sequence.token_ids)[: self.cache.length]
            self.last = completion(sequence, log)
            self.messages += [{"role": "user", "content": text}, {"role": "assistant", "content": sequence.text}]
