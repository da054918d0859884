"""Byte-level BPE, the tokenizer of GPT-2, Llama 3, Qwen and SmolLM.

Start from bytes, not characters: 256 symbols cover every text, so there is no unknown word, and decoding what was encoded
gives the text back. Vocabulary files want printable text, so each byte is written as one printable character: itself where
it is one, else the next from U+0100 on. That is where the Ġ comes from: the space, 0x20, the 33rd byte without a face.

    " low" -> bytes 20 6c 6f 77 -> "Ġ l o w" -> merge -> "Ġlow" -> id

Radford et al., 2019, "Language Models are Unsupervised Multitask Learners".
"""

import unicodedata
from typing import Any

from minillm.errors import TokenizerError
from minillm.model.tokenizer.merge import WordCache, merge
from minillm.model.tokenizer.pretokenize import canonical, pretokenize
from minillm.model.tokenizer.vocabulary import Vocabulary

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_FACELESS = [b for b in range(256) if b not in set(_PRINTABLE)]
BYTE_TO_CHAR = {b: chr(b) for b in _PRINTABLE} | {b: chr(0x100 + i) for i, b in enumerate(_FACELESS)}
CHAR_TO_BYTE = {ord(c): chr(b) for b, c in BYTE_TO_CHAR.items()}


def byte_symbols(data: bytes) -> str:
    """Map bytes to the characters that a vocabulary writes them with, one printable character each: b" hi" -> "Ġhi"."""
    return data.decode("latin-1").translate(BYTE_TO_CHAR)


class ByteLevelBPE:
    """Encode and decode plain text. Control tokens are the business of Tokenizer and are out of reach from here.

    merges: "left right" in the order of training, as GGUF and `merges.txt` have them.
    normalizer: "NFC" composes text first (e and an accent become é), as Qwen's tokenizers do; None takes it as it is.
    ignore_merges: take a word that is a token as that token, even where the merges would not build it; None: as Llama 3 does,
        where the pre-tokenizer is Llama 3's.
    missing_bytes: bytes for which the vocabulary has no token (SmolLM2 lacks 21, such as 0x04). They are dropped from
        text, as `tokenizers` and llama.cpp do: everything else survives encode and decode exactly.
    """

    def __init__(
        self, vocabulary: Vocabulary, merges: list[str], pre: str = "gpt-2", normalizer: Any = None,
        ignore_merges: bool | None = None
    ) -> None:
        self.vocabulary, self.normalizer = vocabulary, normalizer
        self.pre = canonical(pre)
        self.whole_words = self.pre == "llama-bpe" if ignore_merges is None else ignore_merges
        self.byte_ids = [self.text_id(char) for _, char in sorted(BYTE_TO_CHAR.items())]
        self.missing_bytes = {byte for byte, i in enumerate(self.byte_ids) if i is None}
        self.table = merge_table(merges, vocabulary)
        self.words = WordCache(self._encode_word)

    def text_id(self, text: str) -> int | None:
        """Find a token that plain text may become: no control token."""
        i = self.vocabulary.ids.get(text)
        return None if i in self.vocabulary.control_ids else i

    def encode(self, text: str, starts: bool = True) -> list[int]:
        """Encode a text without special tokens. starts: not used here, see sentencepiece.py."""
        out = []
        for piece, user_defined in self.vocabulary.split_user_defined(text):
            if user_defined is not None:
                out.append(user_defined)
            else:
                piece = unicodedata.normalize(self.normalizer, piece) if self.normalizer else piece
                for word in pretokenize(piece, self.pre):
                    out += self.words[word]
        return out

    def _encode_word(self, word: str) -> list[int]:
        data = word.encode()
        if self.whole_words and (i := self.text_id(byte_symbols(data))) is not None:
            return [i]
        return merge([i for byte in data if (i := self.byte_ids[byte]) is not None], self.table.get)

    def token_bytes(self, i: int) -> bytes:
        """Return the bytes of token i."""
        text = self.vocabulary.tokens[i]
        if i not in self.vocabulary.literal_ids:
            try:
                return text.translate(CHAR_TO_BYTE).encode("latin-1")
            except UnicodeEncodeError:  # not in the byte alphabet: padding that a converter wrote as it is
                pass
        return text.encode("utf-8", "surrogatepass")


def merge_table(merges: list[str], vocabulary: Vocabulary) -> dict[tuple[int, int], tuple[int, int]]:
    """Read the merges of a file: (left id, right id) -> (rank, merged id).

    A merge is the text "left right": two tokens with one space between them, and what they become is the token of both texts
    side by side. The file has them in the order of training, and a pair's rank is its place, from 0: lower merges first. A merge
    into a control token (its id is among vocabulary.control_ids) is left out: plain text must never become one.
    TokenizerError for a merge that is no pair, or names no token.
    """
    ids: Any = vocabulary.ids.get  # text -> id; None where there is no such token
    try:
        # BEGIN SOLUTION ex=09.7
        table = {}
        for rank, line in enumerate(merges):
            left, right = line.split(" ")
            merged = ids(left + right)
            if merged not in vocabulary.control_ids:
                table[ids(left), ids(right)] = rank, merged
        # END SOLUTION
    except ValueError:
        split_merges(merges, vocabulary)  # says which
        raise
    if any(a is None or b is None or merged is None for (a, b), (_, merged) in table.items()):
        split_merges(merges, vocabulary)
    return table


def split_merges(merges: list[str], vocabulary: Vocabulary) -> list[list[str]]:  # -> [[left, right]], of tokens
    """Split merges at their space. TokenizerError where one is no pair, or a half or the whole is none of the tokens."""
    pairs, ids = [line.split(" ") for line in merges], vocabulary.ids
    for rank, pair in enumerate(pairs):
        if len(pair) != 2:
            raise TokenizerError(
                f"tokenizer.ggml.merges[{rank}]: expected two tokens with one space between, found {merges[rank][:60]!r}"
            )
        if not (pair[0] in ids and pair[1] in ids and pair[0] + pair[1] in ids):
            name = next(text for text in (*pair, "".join(pair)) if text not in ids)
            raise TokenizerError(
                f"tokenizer.ggml.merges[{rank}] is {merges[rank][:60]!r}, but {name[:60]!r}"
                f" is none of the {len(vocabulary.tokens):,} tokens"
            )
    return pairs
