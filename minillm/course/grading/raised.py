"""An exception that crosses the wall: the name of a class, words, and the line of the submission where it was raised.

Of its class the first ancestor crosses that is Python's own or of minillm; NumPy's errors are MemoryErrors and ValueErrors. The
other side makes a new one from words alone. One that is only passing through keeps its number, and is itself again at home.
"""

import builtins
import traceback

from minillm.course.grading.wire import WallError

LONGEST = 4000  # characters of a message
ENDS = (SystemExit, KeyboardInterrupt, GeneratorExit)


class Raised:
    """Describes and restores exceptions, for one side. class_of: from a name to a class of minillm; folder: whose lines count."""

    def __init__(self, class_of, folder=None):
        self.class_of, self.folder, self.passing = class_of, folder, {}

    def describe(self, error):  # -> plain data
        number = getattr(error, "wall_number", None)
        if number is None:
            number = len(self.passing)
            self.passing[number] = error
            back = False
        else:
            back = True
        words = said(error.args[0]) if isinstance(error, KeyError) and len(error.args) == 1 else said(error)
        because = [said(one)[:200] for one in chain(error)[1:6]]
        return {"class": class_name(type(error)), "words": words[:LONGEST], "at": self.place(error), "because": because,
                "number": number, "back": back}  # fmt: skip

    def restore(self, told):  # -> an exception
        try:
            if told["back"]:
                return self.passing[told["number"]]
            module, _, name = told["class"].partition(":")
            cls = getattr(builtins, name, None) if module == "builtins" else self.class_of(told["class"])
            words, at, because = str(told["words"])[:LONGEST], told["at"], [str(one) for one in told["because"]][:5]
            if not (isinstance(cls, type) and issubclass(cls, Exception)) or issubclass(cls, BaseExceptionGroup | Warning):
                cls = RuntimeError
            error = cls(words) if takes_words(cls, words) else RuntimeError(words)
            error.wall_number = told["number"]
            if because:
                error.__cause__ = RuntimeError("; ".join(because))
            if isinstance(at, str):
                error.line = at[:100]  # outcomes.py names it
            return error
        except WallError:
            raise
        except Exception as error:
            raise WallError(f"an exception that cannot be read came across the wall ({type(error).__name__}).") from None

    def place(self, error):  # -> "layers.py:12", the last line of the submission that it passed, or None
        found = None
        for frame in traceback.extract_tb(error.__traceback__):
            if self.folder and frame.filename.startswith(self.folder):
                found = f"{frame.filename.removeprefix(self.folder).lstrip('/')}:{frame.lineno}"
        return found


def said(error):
    """Return an exception's text, if it has any: __str__ may be the submission's, and wrong."""
    try:
        return str(error)
    except Exception as problem:
        return f"{type(problem).__name__} in its __str__"


def class_name(cls):
    for one in cls.__mro__:
        if one.__module__ == "builtins" and getattr(builtins, one.__name__, None) is one:
            return f"builtins:{one.__name__}"
        if one.__module__.startswith("minillm.") and not one.__module__.startswith("minillm.course"):
            return f"{one.__module__}:{one.__qualname__}"
    return "builtins:RuntimeError"


def takes_words(cls, words):
    try:
        return words in str(cls(words))
    except Exception:
        return False


def chain(error):
    """List an exception, and what it was raised from."""
    seen = []
    while error is not None and error not in seen:
        seen.append(error)
        error = error.__cause__ or error.__context__
    return seen
