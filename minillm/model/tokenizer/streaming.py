"""Streaming: text as soon as it is certain, never half a character.

A token is bytes, and a character may need several tokens: an emoji is four bytes, often three tokens. Printing each token
as it comes shows U+FFFD where the bytes are not complete. So keep the bytes that can still become a character, at most three,
and give out everything before them. Bytes that can no longer become one turn into U+FFFD at once (Unicode 16, section 3.9).
"""

import codecs
from collections.abc import Sequence
from typing import Any


class StreamingDetokenizer:
    """Text of a growing list of tokens: the joined pushes and the flush equal `decode` of the list.

    after: ids that came before, such as the prompt. Only the last counts: a SentencePiece token drops its space prefix at the
    start of a text and after a control token, and keeps it inside a text.
    """

    def __init__(self, tokenizer: Any, after: Sequence[int] = (), skip_special: bool = False) -> None:
        self.tokenizer, self.skip_special = tokenizer, skip_special
        self.previous = after[-1] if len(after) else None
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, i: int) -> str:
        """Return the text that became certain with token i; often empty."""
        data = self.tokenizer._bytes_after(self.previous, i, self.skip_special)
        self.previous = i
        return self._utf8.decode(data)

    def flush(self) -> str:
        """Return the rest at the end: U+FFFD if the last character stayed incomplete, else the empty string."""
        return self._utf8.decode(b"", final=True)
