"""Train a byte-level BPE: learn from a corpus which neighbours deserve a token of their own.

Start with the 256 bytes. Count every pair of neighbours, give the most frequent one a token, put that token in its place
everywhere, and go on until the vocabulary is full. The order in which pairs were chosen is the tokenizer.

    l o w ×5   l o w e r ×2   n e w ×6        (o w) 7, (l o) 7, (n e) 6 …   ->   l ow ×5   l ow e r ×2   n e w ×6

Text repeats itself, so the work is done on distinct words, each with its count: 4 MB of simple stories hold 800,000 words,
but only some thousands of different ones. And a merge changes few words: an index tells which hold a pair, only those are
counted again, and a heap yields the most frequent pair. An entry whose pair has become rarer since is put back with its new
count when it comes up; one that has become more frequent has got a second entry.

Gage 1994, "A new algorithm for data compression"; Sennrich, Haddow and Birch, 2016, arXiv:1508.07909.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise

from minillm.errors import TokenizerError
from minillm.model.tokenizer.bpe import BYTE_TO_CHAR, byte_symbols
from minillm.model.tokenizer.pretokenize import canonical, pretokenize
from minillm.model.tokenizer.vocabulary import CONTROL, NORMAL, check_unicode, one_of

BYTES = list(BYTE_TO_CHAR.values())  # the first 256 tokens
LONGEST_WORD = 128  # bytes; a longer word is cut, or a megabyte without a space would be gone through at every merge
RAREST = 2  # a pair seen once is no pattern


def train_bpe(
    documents: Iterable[str | bytes], vocab_size: int, special: Iterable[str] = ("<|endoftext|>",), pre: str = "gpt-2",
    add_bos: bool = False
) -> dict:
    """Train a tokenizer; returns its part of a GGUF file's metadata, which Tokenizer.from_gguf takes.

    documents: texts, or their UTF-8. Where one holds a special token, it is cut there.
    vocab_size: tokens in all: 256 bytes (ids 0 to 255), one per merge in the order of training, the special ones last.
    special: control tokens. The first begins and the last ends a text; no merge makes one.
    pre: the pre-tokenizer, a name in pretokenize.PATTERNS.

    The same documents, in any order, give the same tokenizer on every machine.
    Raises TokenizerError for a corpus that is empty, not UTF-8, or too small for so many tokens.
    """
    special = check_special(special)
    least = len(BYTES) + len(special)
    if type(vocab_size) is not int or vocab_size < least:
        raise TokenizerError(
            f"vocab_size: expected at least {least:,} ({len(BYTES)} bytes and {len(special)} special), found {vocab_size!r:.40}"
        )
    words = count_words(documents, pre, special)
    pairs = learn_merges(words, vocab_size - least, special)
    if least + len(pairs) < vocab_size:
        raise TokenizerError(
            f"the corpus is too small for a vocabulary of {vocab_size:,} tokens: its {len(words):,} distinct words give"
            f" {least + len(pairs):,}, as no other pair of tokens occurs {RAREST} times"
        )
    tokens = BYTES + [a + b for a, b in pairs] + special
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": canonical(pre),
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [NORMAL] * (vocab_size - len(special)) + [CONTROL] * len(special),
        "tokenizer.ggml.merges": [f"{a} {b}" for a, b in pairs],
        "tokenizer.ggml.bos_token_id": vocab_size - len(special),
        "tokenizer.ggml.eos_token_id": vocab_size - 1,
        "tokenizer.ggml.add_bos_token": bool(add_bos),
    }


def check_special(special: Iterable[str]) -> list[str]:
    special = [special] if isinstance(special, str) else list(special)
    if not special or not all(isinstance(name, str) and name for name in special) or len(set(special)) < len(special):
        raise TokenizerError(f"special tokens: expected at least one, none empty, each once, found {special!r:.80}")
    check_unicode("".join(special), "special tokens")
    if single := set(special) & set(BYTES):
        raise TokenizerError(f"special tokens: {min(single)!r} is the token of a byte, expected names that are none")
    return special


def count_words(documents: Iterable[str | bytes], pre: str = "gpt-2", special: Iterable[str] = ()) -> Counter:
    """Count the words of the pre-tokenizer. None contains a part of a special token."""
    documents = [documents] if isinstance(documents, (str, bytes)) else documents
    words: Counter[str] = Counter()
    cut, count = one_of(list(special)), 0
    for count, document in enumerate(documents, 1):
        if isinstance(document, str):
            check_unicode(document, f"document {count:,}")
        else:
            document = decoded(document, count)
        for piece in cut.split(document)[::2] if cut else [document]:
            words.update(pretokenize(piece, pre))
    if not words:
        raise TokenizerError(f"the corpus is empty: expected text, found none in {count:,} documents")
    return words


def decoded(document: bytes, number: int) -> str:
    if not isinstance(document, (bytes, bytearray)):
        raise TokenizerError(f"document {number:,}: expected text or its UTF-8, found {type(document).__name__}")
    try:
        return document.decode()
    except UnicodeDecodeError as error:
        raise TokenizerError(
            f"document {number:,}: expected UTF-8, found byte 0x{document[error.start]:02x}"
            f" at offset {error.start:,} of {len(document):,}"
        ) from None


def learn_merges(words: dict[str, int], how_many: int, special: Iterable[str] = ()) -> list[tuple[str, str]]:
    """Learn the merges, in order; fewer than asked for where no pair occurs RAREST times any more.

    words: how often each occurs. The most frequent pair goes first; of equals the one whose left token is older, then the
    one whose right token is. A pair that would spell a special token is passed over. None spells a token that is there
    already: no merge has crossed the borders of a token, so inside them all merges went as they go for its text alone.
    """
    tokens = list(BYTES)
    ids = {text: i for i, text in enumerate(tokens)}
    special = set(special)
    pieces = cut_long(words)
    symbols = [[ids[char] for char in piece] for piece in pieces]
    times = list(pieces.values())

    counts: Counter[tuple[int, int]] = Counter()  # occurrences of a pair of ids
    where = defaultdict(set)  # which words hold it, or did once
    for word, ids_ in enumerate(symbols):
        for pair in pairwise(ids_):
            counts[pair] += times[word]
            where[pair].add(word)
    heap = [(-n, pair) for pair, n in counts.items()]
    heapq.heapify(heap)

    merges: list[tuple[str, str]] = []
    while heap and len(merges) < how_many:
        n, pair = heapq.heappop(heap)
        if counts[pair] != -n:  # rarer by now
            if counts[pair] >= RAREST:
                heapq.heappush(heap, (-counts[pair], pair))
            continue
        left, right = (tokens[i] for i in pair)
        if -n < RAREST or left + right in special:
            continue
        merges.append((left, right))
        new = len(tokens)
        tokens.append(left + right)

        change: Counter[tuple[int, int]] = Counter()
        for word in where.pop(pair):
            before = symbols[word]
            after = symbols[word] = replaced(before, pair, new)
            for p in pairwise(before):
                change[p] -= times[word]
            for p in pairwise(after):
                change[p] += times[word]
                if new in p:
                    where[p].add(word)
        for p, difference in change.items():
            counts[p] += difference
            if difference > 0:
                heapq.heappush(heap, (-counts[p], p))
    return merges


def cut_long(words: dict[str, int]) -> Counter:
    """Cut words in the byte alphabet to at most LONGEST_WORD."""
    pieces: Counter[str] = Counter()
    for word, n in words.items():
        text = byte_symbols(word.encode())
        for start in range(0, len(text), LONGEST_WORD):
            pieces[text[start : start + LONGEST_WORD]] += n
    return pieces


def replaced(symbols: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """Merge every occurrence of the pair, from the left: a a a with (a a) is aa a."""
    out, i, n = [], 0, len(symbols)
    while i < n:
        if i + 1 < n and symbols[i] == pair[0] and symbols[i + 1] == pair[1]:
            out.append(new)
            i += 2
        else:
            out.append(symbols[i])
            i += 1
    return out
