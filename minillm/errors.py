"""Every error that a user can cause, one class per kind.

The message says what was expected and what was found, with both numbers, in one line. The command line prints it as
`minillm: ...` and exits with status 2; the server answers with status 4xx. Anything else that escapes is a bug of ours.
"""

from collections.abc import Iterable


class MiniLLMError(Exception):
    """Base of all errors that a user can cause and put right."""


class GGUFError(MiniLLMError):
    """A GGUF file that is malformed, truncated, or of a kind not supported."""


class TokenizerError(MiniLLMError):
    """A tokenizer or chat template that a file describes wrongly, or of a kind not supported."""


class ModelError(MiniLLMError):
    """A model that cannot be found, fetched or built: unknown name, unsupported architecture, missing tensor."""


class RequestError(MiniLLMError):
    """A request that cannot be served as asked: prompt too long, sampling parameter out of range."""


class BlockError(MiniLLMError):
    """A block of the KV cache, or a table of them, used against the rules: freed twice, unknown, of an impossible size."""


class OutOfBlocks(MiniLLMError):
    """More blocks are needed than are free now. Later there may be enough: wait, or preempt a request."""


class TraceError(MiniLLMError):
    """A trace of a server, or a profile of one, that cannot be read; says in which line."""


class TrainingError(MiniLLMError):
    """A training run that cannot start or go on: its file, its corpus, its checkpoint, or a loss that is no number."""


class Overloaded(MiniLLMError):
    """Load shedding: more requests wait than the queue may hold. Retry after `retry_after_s` seconds."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Stopping(MiniLLMError):
    """The engine is shutting down and takes no more requests; or it ended before this one was done."""


def nearest(name: str, known: Iterable[str]) -> str | None:  # one of `known`
    """Find the known name that is most like this one, in whatever case it was typed."""
    from difflib import get_close_matches  # only where something is wrong already

    by_lower = {other.lower(): other for other in known}
    return next((by_lower[near] for near in get_close_matches(name.lower(), by_lower, 1)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """End a message about an unknown name: with the nearest one, or else with all that there are."""
    if near := nearest(name, known):
        return f"did you mean {near!r}?"
    return f"there are: {', '.join(known) or 'none'}."
