"""The engine: many requests, one model, one step at a time.

    add(prompt) ──▶ scheduler ── plan ──▶ executor ── outcome: tokens ──▶ scheduler
                        ▲                                      deltas ──▶ the readers
                        └── cancel

A loop of four lines: get a plan from the scheduler, let the executor compute it, update the scheduler with the result, return
the text. Batching is *continuous* because the plan is made anew for each step: finished requests leave at once, waiting ones
enter at once (Yu et al. 2022, Orca). What happens is written to one event log, and every metric is a function over it.

    engine = Engine(LLM("smollm2-135m"))
    engine.add("Once upon a time", SamplingParams(max_tokens=64))
    while engine.has_work:
        for delta in engine.step(): print(delta.text, end="")

Not for several threads at once: `async_engine` puts a thread boundary around it.
"""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

from minillm.cache.kinds import block_size_for
from minillm.engine.answer import Answer, Delta
from minillm.engine.executor import ModelExecutor
from minillm.errors import RequestError
from minillm.llm import LLM, Completion, completion
from minillm.metrics import events
from minillm.metrics.events import ENGINE, EventLog
from minillm.model.config import ModelConfig
from minillm.model.generate import Prompt, as_prompt_list, check_prompt, prompt_ids
from minillm.model.params import SamplingParams, as_int
from minillm.scheduler.plan import Plan, SequenceId
from minillm.scheduler.request import Request
from minillm.scheduler.scheduler import Scheduler, SchedulerConfig
from minillm.speculative.adaptive import Adaptive, Fixed
from minillm.speculative.proposer import Proposer

DEFAULT_TOKENS = 8192  # tokens of cache, at least, by default
MAX_ANSWERS = 128  # to one request


def default_config(config: ModelConfig, kv: str = "float32") -> SchedulerConfig:
    """Make a config with room for one request that fills the context, or for many that do not."""
    size = block_size_for(kv)
    return SchedulerConfig(num_blocks=-(-max(config.context_length, DEFAULT_TOKENS) // size), block_size=size)


@dataclass(slots=True)
class RunningRequest:
    """A request that is not done: its answers, and the indices of those that are not complete."""

    answers: list[Answer]
    open: set[int]


class Engine:
    """Serves requests to one model.

    config: the limits and policies of the scheduler. invariant: logits do not depend on the batch, to the bit, and cost
    more (backends/invariant.py). log: an EventLog; one with keep_last where the engine runs for long.

    proposer: of drafts: a text grows by several tokens a step, and says what it would have said (speculative/). gamma: how many
    each; None: as many as pay, by acceptance and load. A seed fixes a drawn text for the same proposer and gamma, as drafts take
    part in the draws; where times decide how many there are, it does not.
    """

    def __init__(
        self,
        llm: LLM,
        config: SchedulerConfig | None = None,
        *,
        invariant: bool = False,
        log: EventLog | None = None,
        proposer: Proposer | None = None,
        gamma: int | None = None,
    ) -> None:
        config = config or default_config(llm.config, llm.transformer.kv)
        context = min(config.context_length or llm.config.context_length, llm.config.context_length)
        self.llm, self.config, self.context = llm, replace(config, context_length=context), context
        transformer = llm.transformer
        if invariant:
            from minillm.backends.invariant import invariant_model

            transformer = invariant_model(transformer)
        self.scheduler, host = Scheduler(self.config), config.host_blocks if config.preemption == "swap" else 0
        eos_ids = llm.tokenizer.eos_ids
        self.executor = ModelExecutor(
            transformer, config.num_blocks, config.block_size, host, eos_ids=eos_ids, proposer=proposer,
            lookahead=Adaptive() if gamma is None else Fixed(gamma),
        )  # fmt: skip
        self.log = EventLog() if log is None else log
        self.running: dict[int, RunningRequest] = {}  # by request: accepted and not done
        self.scheduled: set[SequenceId] = set()  # sequences that the scheduler runs
        self.awaited: dict[int, list[Completion] | None] = {}  # by request, once it has finished: those that `generate` waits for
        self.next_request = 0

    @property
    def has_work(self) -> bool:
        """Whether any request is not done."""
        return bool(self.running)

    def add(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        n: int = 1,
        user: str = "",
        priority: float = 0,
        salt: Hashable = None,
        truncate: str | None = None,
        adapter: str | None = None,
    ) -> int:  # the number of the request
        """Accept a request (text or token ids), or raise RequestError with the reason why it can never be served.

        n: answers. user, priority: for the waiting queue. salt: prompts with different salts share no cached prefix.
        adapter: the name of one of the LLM's; its keys and values differ, so it is part of the salt.
        """
        params, request = params or SamplingParams(), self.next_request
        self.next_request += 1
        ids = self.encode(prompt)
        self.log.add(request, events.ARRIVED, len(ids))
        try:
            n = self.check_n(n)
            ids, loaded = self.validate_prompt(ids, params, truncate), self.llm.adapter(adapter)
            longest = min(params.max_tokens, self.context - len(ids))  # the context ends an answer too
            whole = params.prompt_logprobs is not None
            self.scheduler.add(Request(request, ids, longest, n, user, priority, (adapter, salt), whole))
        except Exception:
            self.log.add(request, events.REFUSED)
            raise
        limits: dict[str, Any] = {"context": self.context, "vocab_size": self.llm.config.vocab_size, "scores": []}
        detokenizers = [self.llm.tokenizer.stream(ids, params.skip_special_tokens) for _ in range(n)]
        none: Any = None  # the executor gives them a cache for each step
        answers = [Answer(request, ids, params, none, text, index=i, **limits) for i, text in enumerate(detokenizers)]
        self.running[request] = RunningRequest(answers, set(range(n)))
        self.executor.answers[request] = answers
        if loaded is not None:
            self.executor.adapters[request] = loaded
        return request

    def encode(self, prompt: Prompt) -> list[int]:
        """Tokenize a prompt; token ids become ints."""
        return prompt_ids(self.llm.tokenizer, prompt)

    def check_n(self, n: int) -> int:
        if (found := as_int(n)) is None or not 1 <= found <= MAX_ANSWERS:
            raise RequestError(f"n, the number of answers, must be 1 to {MAX_ANSWERS}, found {n!r}.")
        return found

    def validate_prompt(self, ids: list[int], params: SamplingParams, truncate: str | None = None) -> list[int]:
        """Check a prompt: raise RequestError for no tokens, unknown tokens, or too many."""
        ids, vocab = check_prompt(ids, self.context, params.max_tokens, truncate), self.llm.config.vocab_size
        if min(ids) < 0 or max(ids) >= vocab:
            raise RequestError(f"token ids must be 0 to {vocab - 1:,}, found {min(ids):,} to {max(ids):,}.")
        params.check_vocabulary(vocab)
        return ids

    def cancel(self, request: int) -> bool:  # whether it was there
        """Cancel a request, and free its blocks now. False where it is unknown or done."""
        return self.abort(request, events.CANCELLED)

    def step(self) -> list[Delta]:
        """Compute one step -> a delta for each answer that drew a token; an error of one request is its own delta."""
        plan = self.scheduler.schedule()
        self.log_plan(plan)
        outcome = self.executor.execute(plan)
        for share in plan.shares:
            if share.drafts and (kept := outcome.tokens.get(share.sequence)):
                self.log.add(share.sequence.request, events.DRAFTED, share.drafts, share.sequence.index)
                self.log.add(share.sequence.request, events.ACCEPTED, len(kept) - 1, share.sequence.index)
        for delta in outcome.deltas:
            self.log.add(delta.request, events.TOKEN, len(delta.token_ids), delta.index)
        self.log.add(ENGINE, events.STEP, plan.tokens)
        failures = [delta for request, error in outcome.failed.items() for delta in self.fail(request, error)]
        ended = self.scheduler.update(plan, outcome)
        if ended.keys() != outcome.finished.keys():  # both count tokens; a disagreement would never end
            raise RuntimeError(f"ended for the scheduler: {[*ended]}, for their answers: {[*outcome.finished]}.")
        for sequence in ended:
            self.finish(sequence)
        return outcome.deltas + failures

    def log_plan(self, plan: Plan) -> None:
        """Log the sequences that a plan preempts, and those that it schedules."""
        for sequence in plan.preempted:
            self.scheduled.discard(sequence)
            self.log.add(sequence.request, events.PREEMPTED, index=sequence.index)
        for share in plan.shares:
            sequence = share.sequence
            if sequence not in self.scheduled:
                self.log.add(sequence.request, events.SCHEDULED, index=sequence.index)
                if cached := self.scheduler.cached_tokens(sequence.request):
                    self.log.add(sequence.request, events.CACHED, cached, sequence.index)
                self.scheduled.add(sequence)
            self.scheduled.update(share.draws)

    def finish(self, sequence: SequenceId) -> None:
        """Complete an answer, and with the last one its request."""
        running = self.running[sequence.request]
        running.open.discard(sequence.index)
        if not running.open:
            self.remove(sequence.request, events.FINISHED)

    def fail(self, request: int, error: Exception) -> list[Delta]:
        """Fail a request: an error delta for each answer that is not complete."""
        unfinished = sorted(self.running[request].open)
        self.abort(request, events.FAILED)
        return [Delta(request, index, "", finish_reason="error", error=error) for index in unfinished]

    def abort(self, request: int, kind: str) -> bool:
        """Abort an unfinished request, in the scheduler too."""
        if request not in self.running:
            return False
        self.scheduler.cancel(request)
        self.remove(request, kind)
        return True

    def remove(self, request: int, kind: str) -> None:
        """Remove all state of a request; the log keeps its events."""
        running = self.running.pop(request)
        self.executor.forget(request)
        self.scheduled.difference_update(SequenceId(request, i) for i in range(len(running.answers)))
        self.log.add(request, kind)
        if request in self.awaited and kind == events.FINISHED:  # now: a log with keep_last may know it no longer in the end
            self.awaited[request] = [completion(answer, self.log, answer.index) for answer in running.answers]

    def generate(
        self, prompts: list[Prompt], params: SamplingParams | list[SamplingParams] | None = None, **options: Any
    ) -> list[list[Completion]]:
        """Generate completions: n for each prompt. params: for all, or a list, one for each prompt.

        Raises the error of the first that fails, and cancels the rest.
        """
        prompts, _ = as_prompt_list(prompts)
        each = params if isinstance(params, list) else [params] * len(prompts)
        asked = []
        try:
            for prompt, own in zip(prompts, each, strict=True):
                asked.append(self.add(prompt, own, **options))
                self.awaited[asked[-1]] = None
            while self.running.keys() & set(asked):
                for delta in self.step():
                    if delta.error is not None and delta.request in asked:
                        raise delta.error
            return [self.awaited[request] or [] for request in asked]
        finally:
            for request in asked:
                self.cancel(request)
                self.awaited.pop(request, None)
