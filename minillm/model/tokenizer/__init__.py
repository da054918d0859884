"""Tokenizer: text to numbers and back, as the model's file describes it.

A model reads and writes token ids. Two algorithms cover the Llama family, byte-level BPE (bpe.py) and SentencePiece BPE
(sentencepiece.py); they share one merge loop (merge.py). Around them: special tokens, which user text must never become
(vocabulary.py); decoding piece by piece while the model writes (streaming.py); and the chat template, which turns messages
into a prompt (chat.py), run as what it is, an untrusted program (sandbox.py).

    tokenizer = Tokenizer.from_gguf(metadata)
    tokenizer.decode(tokenizer.encode("Hello")) == "Hello"
"""

from collections.abc import Iterable, Sequence
from typing import Any

from minillm.errors import TokenizerError
from minillm.model.tokenizer.bpe import BYTE_TO_CHAR, ByteLevelBPE
from minillm.model.tokenizer.chat import ChatTemplate
from minillm.model.tokenizer.metadata import arguments_from_gguf
from minillm.model.tokenizer.sentencepiece import SentencePieceBPE
from minillm.model.tokenizer.streaming import StreamingDetokenizer
from minillm.model.tokenizer.vocabulary import END_NAMES, NORMAL, UNKNOWN, Vocabulary, check_unicode

__all__ = ["StreamingDetokenizer", "Tokenizer"]


class Tokenizer:
    """Text to token ids and back.

    tokens:        the vocabulary; a token's id is its place.
    merges:        byte-level BPE: "left right" in the order of training. Give these, or
    scores:        SentencePiece: one score per token.
    token_types:   1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte; all normal if left out.
    pre:           name of the pre-tokenizer (byte-level BPE only).
    bos_id, eos_id, unknown_id: begin and end of text, and the last resort of SentencePiece.
    extra_eos_ids: further ids that end a generation, beside eos_id and well-known names such as <|im_end|>.
    add_bos:       what encode does when its `bos` is None.
    space_prefix:  SentencePiece: a text gets a space in front, which decoding takes off; so does what follows a control token.
    metaspace:     SentencePiece as `tokenizers` has it: none where there is a space already; "first": none after control tokens.
    chat_template: Jinja source.
    normalizer, ignore_merges: byte-level BPE, see there.
    """

    def __init__(
        self, tokens: list[str], merges: list[str] | None = None, scores: list[float] | None = None,
        token_types: list[int] | None = None, pre: str = "gpt-2", bos_id: int | None = None, eos_id: int | None = None,
        unknown_id: int | None = None, extra_eos_ids: Iterable[int] = (), add_bos: bool = False, space_prefix: bool = True,
        chat_template: str | None = None, normalizer: str | None = None, ignore_merges: bool | None = None,
        metaspace: str | None = None
    ) -> None:
        if (merges is None) == (scores is None):
            raise TokenizerError("a tokenizer needs merges (byte-level BPE) or scores (SentencePiece), one of the two")
        if add_bos and bos_id is None:
            raise TokenizerError("tokenizer.ggml.add_bos_token is true, but tokenizer.ggml.bos_token_id is missing")
        types = [NORMAL] * len(tokens) if token_types is None else list(token_types)
        declared = {i for i in (bos_id, eos_id, unknown_id, *extra_eos_ids) if i is not None}
        if outside := {i for i in declared if not 0 <= i < len(tokens)}:
            raise TokenizerError(f"special token id {min(outside)} is outside the vocabulary of {len(tokens):,} tokens")
        if merges is not None:
            reachable = {m.replace(" ", "", 1) for m in merges} | set(BYTE_TO_CHAR.values())
            self.vocabulary = Vocabulary(tokens, types, declared, reachable)
            self.model: ByteLevelBPE | SentencePieceBPE = ByteLevelBPE(self.vocabulary, merges, pre, normalizer, ignore_merges)
        elif scores is not None:
            self.vocabulary = Vocabulary(tokens, types, declared, spaces="\u2581")
            self.model = SentencePieceBPE(self.vocabulary, scores, unknown_id, space_prefix, metaspace is not None)
        self.rows = len(tokens)
        self.bos_id, self.eos_id, self.unknown_id, self.add_bos = bos_id, eos_id, unknown_id, add_bos
        self.special_tokens: dict[str, int] = self.vocabulary.special
        ends = {self.special_tokens[name] for name in END_NAMES if name in self.special_tokens}
        # After these a text begins anew, with a space prefix of its own. An unknown token stands for a character within a text.
        unknown = {i for i, kind in enumerate(self.vocabulary.types) if kind == UNKNOWN} | {unknown_id} - {bos_id, eos_id}
        self.prefix_once = metaspace == "first"
        begins = {i for i in (bos_id,) if i is not None}
        self.restarts: set[int] = (begins if self.prefix_once else self.vocabulary.control_ids) - unknown
        self.eos_ids: set[int] = ends | set(extra_eos_ids) | (set() if eos_id is None else {eos_id})
        self.chat = ChatTemplate(chat_template, self) if chat_template else None

    @classmethod
    def from_gguf(cls, metadata: dict) -> "Tokenizer":
        """Make the tokenizer that a GGUF file describes. TokenizerError says which key is wrong, what was expected and found."""
        return cls(**arguments_from_gguf(metadata))

    @property
    def vocab_size(self) -> int:
        return len(self.vocabulary.tokens)

    def pad_to(self, rows: int) -> None:
        """Pad the vocabulary to the rows of the model's embedding: more than tokens where it was padded for speed, as Qwen2's.

        Training never meets such a row, yet sampling can draw it: then it makes no text.
        """
        self.rows = max(self.rows, rows)

    def encode(self, text: str, special: bool = False, bos: bool | None = None, after: Sequence[int] = ()) -> list[int]:
        """Encode a text to token ids.

        special: recognize control tokens such as <|im_end|> in the text. Never do so with text that a user wrote.
        bos: put the begin-of-text token first; None does what the file says.
        after: ids that came before, if the text continues them: then SentencePiece puts no space in front.
        TokenizerError for a lone surrogate, which is no character and has no UTF-8.
        """
        check_unicode(text)
        out = []
        if self.add_bos if bos is None else bos:
            if self.bos_id is None:
                raise TokenizerError("bos=True, but the vocabulary has no begin-of-text token (tokenizer.ggml.bos_token_id)")
            out.append(self.bos_id)
        previous = out[-1:] or after[-1:]
        for number, (piece, control) in enumerate(self.vocabulary.split_special(text) if special else [(text, None)]):
            starts = number == len(after) == 0 if self.prefix_once else self.restarts.issuperset(previous)
            out += self.model.encode(piece, starts) if control is None else [control]
            previous = out[-1:]
        return out

    def decode(self, ids: Sequence[int], skip_special: bool = False, after: Sequence[int] = ()) -> str:
        """Decode token ids to text; bytes that are not UTF-8 become U+FFFD.

        skip_special: leave control tokens out. after: ids that came before, see StreamingDetokenizer.
        """
        previous = [after[-1] if len(after) else None, *ids][:-1] if len(ids) else []
        pairs = zip(previous, ids, strict=True)
        return b"".join(self._bytes_after(p, i, skip_special) for p, i in pairs).decode("utf-8", "replace")

    def stream(self, after: Sequence[int] = (), skip_special: bool = False) -> StreamingDetokenizer:
        """Make a streaming detokenizer: push one id at a time. after: the ids of the prompt, where the text continues it."""
        return StreamingDetokenizer(self, after, skip_special)

    def token_bytes(self, i: int) -> bytes:
        """Return the bytes of a token; a character may be spread over several tokens. None for the model's padding (pad_to)."""
        if self.vocab_size <= i < self.rows:
            return b""
        if not 0 <= i < self.vocab_size:
            raise TokenizerError(f"token id {i} is outside the vocabulary of {self.vocab_size:,} tokens")
        return self.model.token_bytes(int(i))

    def _bytes_after(self, previous: int | None, i: int, skip_special: bool) -> bytes:
        """Return the bytes that token i adds: none if it is skipped; without the space prefix that encode put there."""
        data = self.token_bytes(i)
        if i in self.vocabulary.control_ids:
            return b"" if skip_special else data
        starts = previous is None or previous in self.restarts
        if starts and data[:1] == b" " and getattr(self.model, "space_prefix", False):
            return data[1:]
        return data

    def apply_chat_template(self, messages: list[dict], add_generation_prompt: bool = True, **variables: Any) -> list[int]:
        """Apply the file's chat template to messages: [{"role": "user", "content": "..."}, ...].

        Control tokens come from the template alone: the same text inside a message stays text.
        variables: what else a template may ask for, such as tools=[...] or enable_thinking=False.
        """
        if self.chat is None:
            raise TokenizerError("this model's file has no chat template (tokenizer.chat_template)")
        return self.chat.encode(messages, add_generation_prompt, variables)
