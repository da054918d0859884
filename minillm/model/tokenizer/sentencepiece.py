"""SentencePiece BPE, the tokenizer of Llama 1 and 2, Mistral and TinyLlama.

Three differences from byte-level BPE. Spaces are characters like others, written ▁ (U+2581), and a text gets one in front,
so that a word has the same tokens at the start of a text and inside it. Symbols are characters, and one the vocabulary lacks
falls back to its UTF-8 bytes, tokens <0x00> to <0xFF>. And there is no list of merges: two neighbours merge if their
concatenation is a token, highest score first.

    "low é" -> "▁low▁é" -> ▁low, ▁, <0xC3>, <0xA9>

The space in front is taken off again by decoding, and a ▁ that the user wrote goes by bytes, so that it is not confused with a
space (SentencePiece itself gives it back as a space): decode(encode(text)) == text wherever the vocabulary has the byte tokens.

Kudo and Richardson, 2018, arXiv:1808.06226.
"""

import re

from minillm.errors import TokenizerError
from minillm.model.tokenizer.merge import WordCache, merge
from minillm.model.tokenizer.vocabulary import BYTE, NORMAL, USER_DEFINED, Vocabulary

SPACE = "\u2581"
WRITTEN_SPACE_SYMBOL = "\udfff"  # stands for a ▁ of the user's; a lone surrogate is in no valid text


class SentencePieceBPE:
    """Encode and decode plain text. Control tokens are the business of Tokenizer and are out of reach from here.

    scores: one per token, the higher the earlier it merges.
    unknown_id: token for characters that have neither token nor byte tokens, one for a run of them; without it such a character
        is an error.
    lazy_prefix: a text that begins with a space gets no other in front, as Metaspace of `tokenizers` has it. Decoding takes it
        off all the same: then " a" comes back as "a".
    """

    def __init__(
        self, vocabulary: Vocabulary, scores: list[float], unknown_id: int | None = None, space_prefix: bool = True,
        lazy_prefix: bool = False
    ) -> None:
        self.vocabulary, self.unknown_id, self.space_prefix = vocabulary, unknown_id, space_prefix
        self.lazy_prefix = lazy_prefix
        types = vocabulary.types
        mergeable = (NORMAL, USER_DEFINED)
        self.text_ids = {text: i for text, i in vocabulary.ids.items() if types[i] in mergeable}
        self.entries = {text: (-scores[i], text) for text, i in self.text_ids.items()}
        names = {f"<0x{byte:02X}>": byte for byte in range(256)}
        self.byte_of = {i: names[text] for i, text in enumerate(vocabulary.tokens) if types[i] == BYTE and text in names}
        self.byte_ids = {byte: i for i, byte in self.byte_of.items()}
        # Where no token has a ▁ after another character, no merge crosses the front of a word: encode words, and cache them.
        crossing = any(SPACE in text.lstrip(SPACE) for text in self.text_ids)
        self._cut = re.compile(".+" if crossing else f"{SPACE}*[^{SPACE}]+|{SPACE}+", re.DOTALL)
        self.words = WordCache(self._encode_word)

    def encode(self, text: str, starts: bool = True) -> list[int]:
        """Encode a text, or a stretch between two control tokens, without special tokens.

        starts: it is the beginning of a text, or comes after a control token, and not the rest of another text.
        """
        text = text.replace(SPACE, WRITTEN_SPACE_SYMBOL).replace(" ", SPACE)
        if text and starts and self.space_prefix and not (self.lazy_prefix and text.startswith(SPACE)):
            text = SPACE + text
        out = []
        for piece, user_defined in self.vocabulary.split_user_defined(text):
            if user_defined is not None:
                out.append(user_defined)
            else:
                for word in self._cut.findall(piece):
                    out += self.words[word]
        if self.unknown_id not in out:
            return out
        return [i for before, i in zip([None, *out], out, strict=False) if not i == before == self.unknown_id]

    def _encode_word(self, word: str) -> list[int]:
        get = self.entries.get
        ids = []
        for symbol in merge(list(word), lambda pair: get(pair[0] + pair[1])):
            i = self.text_ids.get(symbol)
            if i is not None:
                ids.append(i)
            else:
                ids += self._fall_back(symbol)
        return ids

    def _fall_back(self, symbol: str) -> list[int]:
        char = {SPACE: " ", WRITTEN_SPACE_SYMBOL: SPACE}.get(symbol, symbol)
        ids = [self.byte_ids[byte] for byte in char.encode() if byte in self.byte_ids]
        if len(ids) == len(char.encode()):
            return ids
        if self.unknown_id is None:
            raise TokenizerError(f"character {char!r} has no token; the vocabulary has neither its bytes nor an unknown token")
        return [self.unknown_id]  # one for the character, not one for each byte

    def token_bytes(self, i: int) -> bytes:
        """Return the bytes of token i."""
        if i in self.byte_of:
            return bytes([self.byte_of[i]])
        text = self.vocabulary.tokens[i]
        if i not in self.vocabulary.control_ids:
            text = text.replace(SPACE, " ")
        return text.encode("utf-8", "surrogatepass")
