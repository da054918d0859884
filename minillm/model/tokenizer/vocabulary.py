"""The vocabulary: token texts, and which of them are more than text.

A token's number is its place in the list. GGUF gives each a type. *Control* tokens structure a conversation (<|im_end|>): they
are recognized only where the caller asks: a user who could type one could end the user's turn and speak as the system.
*User-defined* tokens are words that the trainer added whole (<tool_call>): they are text, and always recognized.
"""

import re
from collections.abc import Iterator
from dataclasses import InitVar, dataclass, field
from typing import Any

from minillm.errors import TokenizerError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # tokenizer.ggml.token_type

# Ends of a turn or a text. Some converters mark them as normal or user-defined: they are control tokens all the same.
END_NAMES = (
    "</s>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|end|>", "<end_of_turn>", "<eos>",
)  # fmt: skip

MOST_CONTROL = 20_000_000  # squared lengths of control tokens: a chat template's shield keeps every beginning and end of each


def one_of(texts: list[str]) -> re.Pattern | None:
    """Make a pattern with one group that matches any of the texts, the longest first; None for no texts."""
    texts = sorted((t for t in texts if t), key=len, reverse=True)
    if not texts:
        return None
    # the look-ahead on the first character spares the long alternation at most positions
    first = "".join(sorted({re.escape(t[0]) for t in texts}))
    return re.compile(f"((?=[{first}])(?:{'|'.join(map(re.escape, texts))}))")


@dataclass
class Vocabulary:
    """tokens[i] is the text of token i as the file has it, types[i] its type.

    declared: ids that the file names as bos, eos, unknown, padding and so on.
    reachable: texts that merging makes out of plain text. Such a token stays text even if it is declared as, say, eos:
        a text that holds it could not be encoded otherwise.
    spaces: how the tokenizer writes a space inside a user-defined token.
    """

    tokens: list[str]
    types: list[int]
    declared: set[int] = field(default_factory=set)
    reachable: InitVar[frozenset[str] | set[str]] = frozenset()  # not kept: as many texts as merges
    spaces: str = " "

    def __post_init__(self, reachable: frozenset[str] | set[str]) -> None:
        if not self.tokens or not all(isinstance(text, str) for text in self.tokens):
            raise TokenizerError(f"tokenizer.ggml.tokens: expected a list of strings, found {_describe(self.tokens)}")
        check_unicode("".join(self.tokens), "tokenizer.ggml.tokens")
        if len(self.types) != len(self.tokens):
            raise TokenizerError(
                f"tokenizer.ggml.token_type has {len(self.types):,} entries, tokenizer.ggml.tokens has {len(self.tokens):,}"
            )
        if strange := set(self.types) - set(range(7)):
            raise TokenizerError(f"tokenizer.ggml.token_type: expected types 0 to 6, found {min(strange, key=repr)!r}")
        self.ids = dict(zip(self.tokens, range(len(self.tokens)), strict=True))
        ends = {self.ids[name] for name in END_NAMES if name in self.ids}
        for i in self.declared | ends:
            if self.types[i] != BYTE and self.tokens[i] not in reachable:
                self.types[i] = self.types[i] if self.types[i] == UNKNOWN else CONTROL
        self.control_ids = {i for i, kind in enumerate(self.types) if kind in (CONTROL, UNKNOWN)}
        if (squares := sum(len(self.tokens[i]) ** 2 for i in self.control_ids)) > MOST_CONTROL:
            longest = max(len(self.tokens[i]) for i in self.control_ids)
            counts = f"{len(self.control_ids):,} of up to {longest:,} characters, {squares:,}"
            raise TokenizerError(f"control tokens: expected at most {MOST_CONTROL:,} squared characters in all, found {counts}")
        self.special = {self.tokens[i]: i for i in sorted(self.control_ids)}
        users = {self.tokens[i].replace(" ", self.spaces): i for i, kind in enumerate(self.types) if kind == USER_DEFINED}
        self.user_defined = users
        self.literal_ids = self.control_ids | set(users.values())  # their text is text, not an alphabet of bytes
        self._special_pattern, self._user_pattern = one_of(list(self.special)), one_of(list(users))

    def split_special(self, text: str) -> Iterator[tuple[str, int | None]]:
        """Split at control tokens: (piece, None) for plain text, (piece, id) for each control token, in order."""
        return _split(text, self._special_pattern, self.special)

    def split_user_defined(self, text: str) -> Iterator[tuple[str, int | None]]:
        """Split at user-defined tokens: (piece, None) for plain text, (piece, id) for each of them, in order."""
        return _split(text, self._user_pattern, self.user_defined)


def _split(text: str, pattern: re.Pattern | None, ids: dict[str, int]) -> Iterator[tuple[str, int | None]]:
    pieces = pattern.split(text) if pattern else [text]
    for k, piece in enumerate(pieces):
        if piece:
            yield piece, ids[piece] if k % 2 else None


def _describe(value: Any) -> str:
    if isinstance(value, list) and value:
        i = next(i for i, item in enumerate(value) if not isinstance(item, str))
        return f"{type(value[i]).__name__} at [{i}]"
    return f"{type(value).__name__} of length {len(value)}" if hasattr(value, "__len__") else type(value).__name__


def check_unicode(text: str, what: str = "text") -> None:
    """Raise TokenizerError where a string holds a lone surrogate: no UTF-8, hence no tokens."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise TokenizerError(
            f"{what} is not valid Unicode: lone surrogate U+{code:04X} at character {error.start:,} of {len(text):,}"
        ) from None
