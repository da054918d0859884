"""Prompt caching as APIs sell it: the caller marks what to keep, it is kept for a while, and the bill says what was read.

    session = Session(llm, ttl_s=300)
    manual = Part(text, cache=True)                        a breakpoint: keep everything up to here
    first = session.generate([manual, "How do I ...?"])    usage: cache_write 1,000, input 12
    second = session.generate([manual, "And how ...?"])    usage: cache_read 1,000, input 11: its TTFT is that of 11 tokens

An entry is a *fork* of a prompt's paged cache, truncated at the breakpoint: a block table and no copy. Reference counts do the
rest. Two entries that begin alike own the same blocks; dropping one frees the blocks without another owner; a sequence that
continues from the middle of a block copies that block first. A server's prefix cache (prefix, radix) has another task: it
finds prefixes that were not marked, in whole blocks, and evicts when memory runs out. Here a customer has paid for a point and
a time, so the lifetime belongs to the entry, and a breakpoint is exact to the token whatever the block size.

Neighbouring texts are tokenized as one: the answer is that of the whole prompt, and no part gets an extra space. So a token may
reach over a breakpoint, or differ because of what follows. Rule: a breakpoint keeps the longest common prefix of two token
lists, those of the text up to it, taken alone, and those of the whole text.

    "... the new" | "est" : ... ▁the ▁new       taken alone
                            ... ▁the ▁newest    as a whole: kept up to ▁the

It is a true prefix of the prompt's tokens, and two prompts with the same text up to a breakpoint always share: what either
keeps is a beginning of the tokens of that text alone, so the shorter of the two is a beginning of the longer.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, groupby
from typing import Any, cast

from minillm.cache.kinds import block_size_for, new_store
from minillm.cache.paged import PagedCache
from minillm.errors import RequestError
from minillm.llm import LLM, Completion, completion
from minillm.metrics.events import EventLog
from minillm.model.generate import generate_tokens
from minillm.model.params import SamplingParams


def common_prefix(a: list[int], b: list[int]) -> int:
    """Count the tokens of the longest common prefix of two lists."""
    n = min(len(a), len(b))
    return n if a[:n] == b[:n] else next(i for i in range(n) if a[i] != b[i])


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a prompt, text or token ids. cache: a breakpoint at its end."""

    content: str | list[int]
    cache: bool = False


Piece = Part | str | list[int]
Parts = Piece | list[Piece]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call by what they cost. The first three add up to the prompt; `+` adds up calls.

    input: computed and not kept. cache_write: computed and kept. cache_read: not computed.
    """

    input_tokens: int = 0
    cache_write_tokens: int = 0
    cache_read_tokens: int = 0
    output_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class SessionResponse:
    """The response to one call: the completion, and its usage."""

    completion: Completion
    usage: Usage

    @property
    def text(self) -> str:
        return self.completion.text


@dataclass(eq=False, slots=True)
class CachedPrefix:
    """A cached prefix, and when it expires unless it is used before."""

    salt: object
    tokens: list[int]
    cache: PagedCache
    expires: float


class Session:
    """One user's prompts, with breakpoints.

    ttl_s: seconds that an entry lives after each use. min_tokens: shorter prefixes are not kept (APIs: 1,024 and more).
    capacity: tokens kept at most, in whole blocks; beyond, the least recently used entry goes. The request under way has
    room of its own, for max_length tokens of prompt and answer (the model's context, unless memory is short); one at a time.
    clock: seconds, rising. Errors: RequestError; a refused call changes nothing.
    """

    def __init__(
        self,
        llm: LLM,
        ttl_s: float = 300.0,
        min_tokens: int = 64,
        capacity: int = 8192,
        block_size: int | None = None,
        max_length: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        block_size = block_size_for(llm.transformer.kv) if block_size is None else block_size
        if not (ttl_s > 0 and min_tokens >= 1 and capacity >= block_size >= 1):
            raise RequestError(
                "a session needs ttl_s above 0, min_tokens of at least 1 and a capacity of at least one block, "
                f"found {ttl_s}, {min_tokens:,}, and {capacity:,} tokens in blocks of {block_size:,}."
            )
        self.llm, self.ttl_s, self.min_tokens, self.clock = llm, ttl_s, min_tokens, clock
        self.max_blocks = capacity // block_size
        self.max_length = min(max_length or llm.config.context_length, llm.config.context_length)
        request_blocks = -(-self.max_length // block_size)
        made = llm.config, llm.transformer.kv, self.max_blocks + request_blocks, block_size, llm.transformer.ops
        self.store = new_store(*made)
        self.entries: OrderedDict[tuple, CachedPrefix] = OrderedDict()  # by (salt, tokens), least recently used first
        self.last: SessionResponse | None = None
        self.total = Usage()

    def generate(self, parts: Parts, params: SamplingParams | None = None, salt: Hashable = None) -> SessionResponse:
        """Complete a prompt. Lookup and caching end at its last breakpoint; without one, there is neither.

        salt: anything hashable; calls with different salts share nothing (tenants, adapters).
        """
        for _ in self.stream(parts, params, salt):
            pass
        return cast(SessionResponse, self.last)

    def stream(self, parts: Parts, params: SamplingParams | None = None, salt: Hashable = None) -> Iterator[str]:
        """Stream a completion; `last` is the SessionResponse at the end, also where the caller stops early."""
        try:
            hash(salt)
        except TypeError:
            raise RequestError(f"the salt must be hashable, found {salt!r}.") from None
        ids, breakpoints = self.tokenize(parts)
        sequence = self.llm.sequence(0, ids, params)
        longest = min(len(ids) + sequence.params.max_tokens, self.llm.config.context_length)
        if longest > self.max_length:
            raise RequestError(f"a request of this session takes {self.max_length:,} tokens with its answer, found {longest:,}.")
        self.expire()
        whole = sequence.params.prompt_logprobs is not None  # the logits of all positions are wanted
        found = (None, 0) if whole else self.longest_match(ids, breakpoints, salt)
        sequence.cache = self.resume(*found, len(ids))
        read = sequence.cache.length
        log = EventLog()
        try:
            for _, piece in generate_tokens(self.llm.transformer, self.llm.tokenizer.eos_ids, [sequence], log):
                if piece:
                    yield piece
        finally:
            reached = [end for end in breakpoints if end <= sequence.cache.length]  # all, unless it was interrupted
            for end in reached:
                self.keep(salt, ids[:end], sequence.cache)
            sequence.cache.free()
            written = max(0, max(reached, default=0) - read)
            usage = Usage(len(ids) - read - written, written, read, len(sequence.token_ids))
            self.last, self.total = SessionResponse(completion(sequence, log), usage), self.total + usage

    def tokenize(self, parts: Parts) -> tuple[list[int], list[int]]:  # token ids, length at each breakpoint that can be kept
        """Tokenize neighbouring texts as one; keep ids as they are. Only the first token may be the begin-of-text token."""
        single = isinstance(parts, str | Part) or (parts and isinstance(parts[0], int))
        pieces: list[Part] = [part if isinstance(part, Part) else Part(part) for part in cast(list, [parts] if single else parts)]
        ids: list[int] = []
        breakpoints: list[int] = []
        for is_text, group in groupby(pieces, lambda part: isinstance(part.content, str)):
            run = list(group)
            whole: Any = "".join(str(part.content) for part in run) if is_text else [int(i) for part in run for i in part.content]
            encode = partial(self.llm.tokenizer.encode, bos=False if ids else None, after=tuple(ids)) if is_text else list
            new, ends = encode(whole), accumulate(len(part.content) for part in run)
            marked = [end for part, end in zip(run, ends, strict=True) if part.cache]
            breakpoints += [len(ids) + common_prefix(encode(whole[:end]), new) for end in marked]
            ids += new
        room = self.max_blocks * self.store.pool.block_size
        return ids, [end for end in breakpoints if self.min_tokens <= end <= room]

    def longest_match(self, ids: list[int], breakpoints: list[int], salt: Hashable) -> tuple[CachedPrefix | None, int]:
        """Find the entry that saves most, and how much: all of it, if the prompt begins so, or up to a breakpoint of the prompt.

        One user has few entries, so each is compared in full.
        """
        best: tuple[CachedPrefix | None, int] = None, 0
        for entry in self.entries.values():
            agree = common_prefix(entry.tokens, ids[: max(breakpoints, default=0)]) if entry.salt == salt else 0
            if agree < len(entry.tokens):
                agree = max((end for end in breakpoints if end <= agree), default=0)
            if agree > best[1] or (agree == best[1] == len(entry.tokens)):
                best = entry, agree
        return best if best[1] else (None, 0)

    def resume(self, entry: CachedPrefix | None, length: int, prompt_tokens: int) -> PagedCache:
        """Make a cache to continue from. The last token of a prompt is always computed: its logits give the answer's first."""
        if entry is None:
            return self.store.new_cache(max_length=self.max_length)
        self.touch(entry)
        cache = entry.cache.fork()
        cache.truncate(cache.truncatable(min(length, prompt_tokens - 1, cache.length)))
        return cache

    def touch(self, entry: CachedPrefix) -> None:
        """Restart the entry's time to live, and make it the most recently used."""
        entry.expires = self.clock() + self.ttl_s
        self.entries.move_to_end((entry.salt, tuple(entry.tokens)))

    def keep(self, salt: Hashable, tokens: list[int], cache: PagedCache) -> None:
        """Cache a prefix, or touch it if it is there; then evict others until all fit."""
        key = salt, tuple(tokens)
        if key not in self.entries:
            kept = cache.fork()
            kept.truncate(kept.truncatable(len(tokens)))  # less where the cache cannot go back to a token: the rest is recomputed
            self.entries[key] = CachedPrefix(salt, tokens, kept, 0.0)
        self.touch(self.entries[key])
        while self.kept_blocks > self.max_blocks:
            self.evict(next(iter(self.entries)))

    def expire(self) -> None:
        """Evict expired entries. Every call begins with it."""
        now = self.clock()
        for key in [key for key, entry in self.entries.items() if entry.expires <= now]:
            self.evict(key)

    def evict(self, key: tuple) -> None:
        """Evict an entry; its blocks without another owner are free."""
        self.entries.pop(key).cache.free()

    @property
    def kept_blocks(self) -> int:
        """Blocks that entries own; a shared one counts once."""
        return len({block for entry in self.entries.values() for block in entry.cache.table.blocks})
