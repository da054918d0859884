"""What KIVI keeps in full of each sequence, from one step to the next.

The executor makes a cache anew for each step, from the blocks that the plan names. Of KIVI's caches the newest tokens are not in
the blocks (cache/kivi.py): they are kept here, by sequence. Who continues where a group begins needs none of them: a prompt that
starts, a prefix that was found, a request that is computed again. A swapped request keeps its own. An answer that begins where
the common prompt ends takes what the prompt's computation left there.
"""

from minillm.cache.kivi import KiviCache, Window, open_group
from minillm.cache.protocol import KVCache
from minillm.engine.answer import Answer
from minillm.errors import MiniLLMError
from minillm.quantization.kivi import GROUP
from minillm.scheduler.plan import SequenceId, Share

PROMPT = -1  # in place of an answer's index: as it was where the prompt ended


class Windows:
    """The windows of all sequences under way; of caches in other formats, none."""

    def __init__(self) -> None:
        self.of: dict[int, dict[int, Window]] = {}  # by request, then by answer

    def hand_on(self, cache: KVCache, sequence: SequenceId) -> None:
        """Give a cache that begins within a group the full tokens of that group."""
        if not isinstance(cache, KiviCache) or cache.length % GROUP == 0:
            return
        known = self.of.get(sequence.request, {})
        for index in (sequence.index, PROMPT):
            if index in known and known[index].end == cache.length:
                cache.resume(known[index])
                return
        raise MiniLLMError(f"the full tokens before position {cache.length:,} of request {sequence.request} are not there.")

    def keep(self, cache: KVCache, share: Share, answer: Answer) -> None:
        """Keep the full tokens of a cache whose step is done. answer: one of the request's."""
        if isinstance(cache, KiviCache):
            known = self.of.setdefault(share.sequence.request, {})
            known[share.sequence.index] = cache.window
            if cache.length == len(answer.prompt_token_ids):
                known[PROMPT] = cache.window.copy()

    def truncate(self, sequence: SequenceId, length: int) -> None:
        """Take rejected drafts out of what was kept: from position `length` on."""
        if (window := self.of.get(sequence.request, {}).get(sequence.index)) is not None:
            for layer in range(len(window.first)):
                window.keep(layer, open_group(length) - GROUP, length)

    def drop(self, request: int) -> None:
        """Forget a request that is done."""
        self.of.pop(request, None)
