"""Generation: prefill the prompt, then one token at a time until something says stop.

What a sequence still has to feed is simply the tokens that its cache does not hold. At first that is the prompt
(prefill), afterwards the one token just chosen (decode); without a cache it is everything, every time. Sequences given
together decode as one batch.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minillm.cache.protocol import Array, KVCache
from minillm.errors import RequestError
from minillm.metrics.events import ARRIVED, FINISHED, TOKEN, EventLog
from minillm.model.adapters import LoadedAdapter
from minillm.model.candidates import sample
from minillm.model.logprobs import TokenLogprob, prompt_logprobs, token_logprob
from minillm.model.params import SamplingParams, as_int, as_tuple
from minillm.model.stopping import StopStrings
from minillm.model.tokenizer import Tokenizer
from minillm.model.tokenizer.streaming import StreamingDetokenizer
from minillm.model.transformer import Segment, Transformer, logit_rows

Prompt = str | list[int] | np.ndarray  # text, or token ids
EMPTY = "the prompt is empty: a model needs at least one token to go on from"
PREFILL_CHUNK = 512  # tokens a step: the naive scores of a chunk take heads × chunk × context × 4 bytes


@dataclass
class SequenceState:
    """One sequence under generation: its prompt, its output so far, its cache and its random generator."""

    request: int
    prompt_token_ids: list[int]
    params: SamplingParams
    cache: KVCache
    detokenizer: StreamingDetokenizer
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: str | None = None
    stop_reason: str | int | None = None  # the stop string or the stop token that ended it; None where neither did
    logprobs: list[TokenLogprob] = field(default_factory=list)
    scores: list[TokenLogprob] = field(default_factory=list)  # of the prompt's tokens, from the second one on
    counts: Counter[int] = field(default_factory=Counter)  # of the tokens of the output
    adapter: LoadedAdapter | None = None

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.params.seed)
        self.stops = StopStrings(self.params.stop)

    @property
    def prompt_logprobs(self) -> list[TokenLogprob | None] | None:
        """What the model said of each token of the prompt; None for the first. None altogether where it was not asked."""
        return None if self.params.prompt_logprobs is None else [None, *self.scores]

    def pending(self) -> list[int]:
        """List the tokens that the cache does not hold yet."""
        held, prompt = self.cache.length, len(self.prompt_token_ids)
        return self.prompt_token_ids[held:] + self.token_ids[max(0, held - prompt) :]

    def segment(self, tokens: list[int], logits: str = "last") -> Segment:
        """Make a segment of these tokens, after those that the cache holds."""
        return Segment(tokens, self.cache.length, self.cache, logits, self.adapter)

    def accept(self, token: int, eos_ids: Collection[int], room: int) -> str:  # the text that it makes visible
        """Take a chosen token: end of text (which is no part of the text), stop string, length, or go on."""
        self.token_ids.append(token)
        self.counts[token] += 1
        stops = token in self.params.stop_token_ids
        if stops or (token in eos_ids and not self.params.ignore_eos):
            self.stop_reason = token if stops else None
            return self.finish("stop", self.stops.push(self.detokenizer.flush()) + self.stops.flush())
        piece = self.stops.push(self.detokenizer.push(token), look=len(self.token_ids) > self.params.min_tokens)
        if self.stops.hit is not None:
            self.stop_reason = self.stops.hit
            return self.finish("stop", piece)
        if len(self.token_ids) >= min(self.params.max_tokens, room):
            return self.finish("length", piece + self.stops.push(self.detokenizer.flush()) + self.stops.flush())
        self.text += piece
        return piece

    def forbidden(self, eos_ids: Collection[int]) -> Collection[int]:
        """List the tokens that may not come yet: before min_tokens, those that would end the text."""
        return {*eos_ids, *self.params.stop_token_ids} if len(self.token_ids) < self.params.min_tokens else ()

    def unscored(self, position: int, count: int) -> range:
        """Find the positions, of `count` from `position` on, whose logits say something of the prompt that is still wanted."""
        if self.params.prompt_logprobs is None:
            return range(0)
        wanted = range(max(position, len(self.scores)), min(position + count, len(self.prompt_token_ids) - 1))
        if wanted and wanted[0] > len(self.scores):
            raise RuntimeError(f"position {len(self.scores)} of a prompt was skipped, and its log-probabilities are wanted.")
        return wanted

    def finish(self, reason: str, piece: str) -> str:
        self.finish_reason = reason
        self.text += piece
        return piece


def prompt_ids(tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    """Tokenize a prompt, or check its ids. "" becomes the begin-of-text token, also where the file puts none before a text."""
    if isinstance(prompt, str):
        if ids := tokenizer.encode(prompt):
            return ids
        if tokenizer.bos_id is None:
            raise RequestError(f"{EMPTY}, and this one has no begin-of-text token to begin with.")
        return [tokenizer.bos_id]
    try:
        found = [as_int(i) for i in prompt]
    except TypeError:
        found = [None]
    ids = [i for i in found if i is not None]
    if len(ids) < len(found):
        raise RequestError(f"a prompt is text or a list of token ids, found {describe_prompt(prompt)}.")
    return ids


def describe_prompt(prompt: Any) -> str:
    """Describe a wrong prompt by its type and its first wrong item, for an error."""
    try:
        wrong = next(i for i in prompt if as_int(i) is None)
    except (TypeError, StopIteration):
        return type(prompt).__name__
    return f"{type(prompt).__name__} with {wrong!r:.40}"


def as_prompt_list(prompts: Prompt | list) -> tuple[list, bool]:  # [prompt], whether it was a single one: text or token ids
    if isinstance(prompts, str):
        return [prompts], True
    prompts = list(as_tuple("prompts", prompts, "texts, or of lists of token ids"))
    single = bool(prompts) and as_int(prompts[0]) is not None
    return [prompts] if single else prompts, single


def check_prompt(ids: list[int], context: int, max_tokens: int, truncate: str | None = None) -> list[int]:
    """Refuse a prompt that leaves no room for a token; or, with truncate="left", keep its end and room for the answer."""
    if not ids:
        raise RequestError(f"{EMPTY}.")
    if truncate not in (None, "left"):
        raise RequestError(f"truncate must be 'left' or nothing, found {truncate!r}.")
    if truncate == "left" and len(ids) + max_tokens > context:
        return ids[-max(1, context - max_tokens) :]
    if len(ids) >= context:
        raise RequestError(
            f"prompt has {len(ids):,} tokens, the model's context holds {context:,} and one must be left for the answer. "
            "Shorten it, or pass --truncate left."
        )
    return ids


def prefill(transformer: Transformer, sequence: SequenceState, chunk: int = PREFILL_CHUNK) -> np.ndarray:  # (vocab,)
    """Feed all that is pending, in chunks so that the scores of a long prompt fit in memory. -> logits of the last position."""
    while len(pending := sequence.pending()) > chunk:
        compute_logits(transformer, [sequence.segment(pending[:chunk], logits="none")], [sequence])
    return transformer.ops.download(compute_logits(transformer, [sequence.segment(pending)], [sequence]))[-1]


def compute_logits(
    transformer: Transformer, segments: list[Segment], sequences: Sequence[SequenceState],
    watch: Callable[[Array, list[slice]], None] | None = None,
) -> Array:  # -> (positions wanted, vocab)
    """Run the forward pass; score the prompts of sequences that want it, each with its segment.

    watch: called with the vectors of all tokens after the last layer, and where those of each segment are.
    """
    spans = [s.unscored(segment.position, len(segment.tokens)) for s, segment in zip(sequences, segments, strict=True)]
    if not any(spans) and watch is None:
        return transformer.logits(segments)
    x, slices = transformer.hidden(segments)
    if watch is not None:
        watch(x, slices)
    for sequence, segment, where, span in zip(sequences, segments, slices, spans, strict=True):
        rows = [where.start + position - segment.position for position in span]
        tokens = sequence.prompt_token_ids[span.start + 1 : span.stop + 1]
        sequence.scores += prompt_logprobs(transformer, x, rows, tokens, sequence.params.prompt_logprobs or 0)
    (wanted,) = transformer.ops.upload([logit_rows(segments, slices)])
    return transformer.head_of(x, wanted)


def generate_tokens(
    transformer: Transformer,
    eos_ids: Collection[int],
    sequences: list[SequenceState],
    log: EventLog | None = None,
    use_cache: bool = True,
) -> Iterator[tuple[SequenceState, str]]:  # and a piece of its text
    """Generate for all sequences until each has finished. Yields after every token, also when it shows no text yet.

    A prompt goes through the model once, and gives the first token. From then on all sequences that have not finished share
    one forward pass a step, in which each feeds what its cache lacks, so that weights are read once for all. A finished one
    (its finish_reason is set: a stop, max_tokens, a full context) takes part in no step, nor is its last token ever fed.

    choose(sequence, logits) takes (vocab,) logits of NumPy, appends a token to its sequence and gives what is to be yielded.
    transformer.logits(segments) gives one row for each segment, on the backend; transformer.ops.download makes NumPy's of them.

    use_cache=False forgets everything after each token: what generation costs without a KV cache.
    """
    log = log or EventLog()
    for sequence in sequences:
        log.add(sequence.request, ARRIVED, len(sequence.prompt_token_ids))

    def choose(sequence: SequenceState, logits: np.ndarray) -> tuple[SequenceState, str]:
        seen = sequence.prompt_token_ids + sequence.token_ids
        shaped = {"counts": sequence.counts, "forbidden": sequence.forbidden(eos_ids)}
        token = sample(logits, sequence.params, sequence.rng, seen, **shaped)
        log.add(sequence.request, TOKEN)
        if sequence.params.logprobs is not None:
            sequence.logprobs.append(token_logprob(logits, token, sequence.params.logprobs))
        room = transformer.config.context_length - len(sequence.prompt_token_ids)
        piece = sequence.accept(token, eos_ids, room)
        if sequence.finish_reason:
            log.add(sequence.request, FINISHED)
        elif not use_cache:
            sequence.cache = transformer.new_cache()
        return sequence, piece

    # BEGIN SOLUTION ex=01.7
    for sequence in sequences:
        yield choose(sequence, prefill(transformer, sequence))
    while active := [sequence for sequence in sequences if not sequence.finish_reason]:
        step = [sequence.segment(sequence.pending()) for sequence in active]
        for sequence, logits in zip(active, transformer.ops.download(transformer.logits(step)), strict=True):
            yield choose(sequence, logits)
    # END SOLUTION
