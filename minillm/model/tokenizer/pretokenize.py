r"""Pre-tokenization: cut text into words before any merge.

Without it, frequent neighbours such as "dog." and "dog!" would each earn a token. A regular expression keeps letters, digits,
punctuation and whitespace apart, and gives a word the one space before it. A merge never crosses a cut, so the pattern is
part of the model: with another one the same text gives tokens that the model has hardly seen.

A pre-tokenizer is a list of patterns. Each cuts every piece so far into its matches and what lies between them; no
character is lost. GPT-2: Radford et al., 2019. Llama 3 widened it: letters take any one non-letter before them, digits go by
three, newlines close a piece. Qwen 2 is that with single digits; SmolLM cuts out every digit and then does as GPT-2.
"""

from functools import lru_cache

from minillm.errors import TokenizerError

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
PATTERNS = {
    "gpt-2": [GPT2],
    "smollm": [r"\p{N}", GPT2],
    "llama-bpe": [LLAMA3],
    "qwen2": [QWEN2],
    # What llama.cpp does with a file that does not say: punctuation apart, digits in threes.
    "default": [r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
}
ALIASES = {"gpt2": "gpt-2", "llama3": "llama-bpe", "llama-v3": "llama-bpe", "deepseek-r1-qwen": "qwen2"}


def canonical(pre: str) -> str:
    """Find the name in PATTERNS that `tokenizer.ggml.pre` stands for. TokenizerError if there is none."""
    name = ALIASES.get(pre, pre)
    if name not in PATTERNS:
        raise TokenizerError(f"tokenizer.ggml.pre is {str(pre)[:60]!r}; supported: {', '.join(PATTERNS)}")
    return name


@lru_cache
def _compiled(pre: str) -> list:
    import regex  # \p{L} is beyond the re of the standard library

    return [regex.compile(f"({pattern})") for pattern in PATTERNS[canonical(pre)]]


def pretokenize(text: str, pre: str) -> list[str]:
    """Cut text into words: "".join(pretokenize(text, pre)) == text, and no word is empty."""
    words = [text]
    for pattern in _compiled(pre):
        # split() with a group returns gap, match, gap, match, ...: nothing is lost
        words = [piece for word in words for piece in pattern.split(word) if piece]
    return words
