"""Prompt caching as APIs sell it: the caller marks what to keep, it is kept for a while, and the bill says what was read.

    session = Session(llm, ttl_s=300)
    manual = Part(text, cache=True)                        a breakpoint: keep everything up to here
    first = session.generate([manual, "How do I ...?"])    usage: cache_write 1,000, input 12
    second = session.generate([manual, "And how ...?"])    usage: cache_read 1,000, input 11: its TTFT is that of 11 tokens

What is kept of a prompt is a *fork* of its paged cache, cut off at the breakpoint: a block table and no copy. Reference
counts do the rest. Two entries that begin alike own the same blocks; dropping one frees what nobody else owns; whoever
goes on from the middle of a block copies that block first. A server's prefix cache (prefix, radix) has another task: it
finds what nobody marked, in whole blocks, and forgets when room runs out. Here a customer has paid for a point and a time,
so the lifetime belongs to the entry, and a breakpoint holds to the token whatever the block size.

Each part is tokenized by itself, or a word could grow across a breakpoint and the prefix would be another one.
"""

import time
from collections import OrderedDict
from dataclasses import dataclass

from minillm.cache.paged import PagedCache, PageStore
from minillm.errors import RequestError
from minillm.events import EventLog
from minillm.llm import Completion, completion
from minillm.model.generate import run


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a prompt, text or token ids. cache: a breakpoint at its end."""

    content: str | list[int]
    cache: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call by what they cost. The first three add up to the prompt; `+` adds up calls.

    input: computed and not kept. cache_write: computed and kept. cache_read: not computed.
    """

    input_tokens: int = 0
    cache_write_tokens: int = 0
    cache_read_tokens: int = 0
    output_tokens: int = 0

    def __add__(self, other):
        return Usage(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call gives: the completion, and what it used."""

    completion: Completion
    usage: Usage

    @property
    def text(self):
        return self.completion.text


@dataclass(eq=False, slots=True)
class Entry:
    """A kept prefix, and when it expires unless it is used before."""

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

    def __init__(self, llm, ttl_s=300.0, min_tokens=64, capacity=8192, block_size=16, max_length=None, clock=time.monotonic):
        if not (ttl_s > 0 and min_tokens >= 1 and capacity >= block_size >= 1):
            raise RequestError(
                "a session needs ttl_s above 0, min_tokens of at least 1 and a capacity of at least one block, "
                f"found {ttl_s}, {min_tokens:,}, and {capacity:,} tokens in blocks of {block_size:,}."
            )
        self.llm, self.ttl_s, self.min_tokens, self.clock = llm, ttl_s, min_tokens, clock
        self.max_blocks = capacity // block_size
        self.max_length = min(max_length or llm.config.context_length, llm.config.context_length)
        request_blocks = -(-self.max_length // block_size)
        self.store = PageStore.of(llm.config, self.max_blocks + request_blocks, block_size, ops=llm.transformer.ops)
        self.entries = OrderedDict()  # (salt, tokens) -> Entry, least recently used first
        self.last = None  # the last Answer
        self.total = Usage()

    def generate(self, parts, params=None, salt=None):  # [Part, str or ids] -> Answer
        """Complete a prompt. Nothing is looked up or kept beyond its last breakpoint; without one, nothing at all.

        salt: anything hashable; calls with different salts share nothing (tenants, adapters).
        """
        for _ in self.stream(parts, params, salt):
            pass
        return self.last

    def stream(self, parts, params=None, salt=None):  # -> iterator of str
        """The same, piece by piece; `last` is the Answer at the end, also where the caller stops early."""
        try:
            hash(salt)
        except TypeError:
            raise RequestError(f"the salt must be hashable, found {salt!r}.") from None
        ids, breakpoints = self.tokenize(parts)
        sequence = self.llm.sequence(0, ids, params)
        whole = min(len(ids) + sequence.params.max_tokens, self.llm.config.context_length)
        if whole > self.max_length:
            raise RequestError(f"a request of this session takes {self.max_length:,} tokens with its answer, found {whole:,}.")
        self.expire()
        found = self.longest(ids[: max(breakpoints, default=0)], salt)
        sequence.cache = self.resume(found, len(ids))
        read = sequence.cache.length
        log = EventLog()
        try:
            for _, piece in run(self.llm.transformer, self.llm.tokenizer.eos_ids, [sequence], log):
                if piece:
                    yield piece
        finally:
            reached = [end for end in breakpoints if end <= sequence.cache.length]  # all, unless it was interrupted
            for end in reached:
                self.keep(salt, ids[:end], sequence.cache)
            sequence.cache.free()
            written = max(0, max(reached, default=0) - read)
            usage = Usage(len(ids) - read - written, written, read, len(sequence.token_ids))
            self.last, self.total = Answer(completion(sequence, log), usage), self.total + usage

    def tokenize(self, parts):  # -> token ids, [length at each breakpoint that can be kept]
        """Each part by itself; only the first may begin with the begin-of-text token."""
        if isinstance(parts, str | Part) or (parts and isinstance(parts[0], int)):
            parts = [parts]
        ids, breakpoints, encode = [], [], self.llm.tokenizer.encode
        for part in parts:
            part = part if isinstance(part, Part) else Part(part)
            text = isinstance(part.content, str)
            ids += encode(part.content, bos=False if ids else None) if text else [int(i) for i in part.content]
            if part.cache and self.min_tokens <= len(ids) <= self.max_blocks * self.store.pool.block_size:
                breakpoints.append(len(ids))
        return ids, breakpoints

    def longest(self, ids, salt):  # -> Entry or None
        """The entry that saves most: all its tokens begin the prompt. One user has few, so each is compared in full."""
        fitting = [e for e in self.entries.values() if e.salt == salt and e.tokens == ids[: len(e.tokens)]]
        return max(fitting, key=lambda e: len(e.tokens), default=None)

    def resume(self, entry, prompt_tokens):  # Entry or None, int -> PagedCache
        """A cache to go on from. The last token of a prompt always runs: its logits choose the answer's first."""
        if entry is None:
            return self.store.new_cache(max_length=self.max_length)
        self.touch(entry)
        cache = entry.cache.fork()
        cache.truncate(min(cache.length, prompt_tokens - 1))
        return cache

    def touch(self, entry):
        """A use begins the time to live anew, and makes it the last to be dropped."""
        entry.expires = self.clock() + self.ttl_s
        self.entries.move_to_end((entry.salt, tuple(entry.tokens)))

    def keep(self, salt, tokens, cache):
        """Enter a prefix, or use it once more if it is there; then drop others until all fit."""
        key = salt, tuple(tokens)
        if key not in self.entries:
            kept = cache.fork()
            kept.truncate(len(tokens))
            self.entries[key] = Entry(salt, tokens, kept, 0.0)
        self.touch(self.entries[key])
        while self.kept_blocks > self.max_blocks:
            self.drop(next(iter(self.entries)))

    def expire(self):
        """Drop what was not used in time. Every call begins with it."""
        now = self.clock()
        for key in [key for key, entry in self.entries.items() if entry.expires <= now]:
            self.drop(key)

    def drop(self, key):
        """Forget an entry; blocks that nobody else owns are free."""
        self.entries.pop(key).cache.free()

    @property
    def kept_blocks(self):
        """Blocks that entries own; one that they share counts once."""
        return len({block for entry in self.entries.values() for block in entry.cache.table.blocks})
