"""How large a value may become in a chat template, and the filters that could make one larger than its parts.

The size of a value is its characters and items, counted through nested lists; a list that holds another twice counts it twice,
because printing it would. Whatever multiplies (joining, replacing, indenting, writing JSON) works out the size of its result
before it makes it.
"""

import json

from jinja2.filters import do_indent

LIMIT = 4_000_000  # characters and items in one value: some ten times the context of a large model


class TooLarge(Exception):
    """A template asked for more memory or time than it may have."""


def size_of(value) -> int:
    """Characters and items; shared parts count as often as they occur. TooLarge above LIMIT, without looking further."""
    size, stack = 0, [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            size += len(item)
        elif isinstance(item, (list, tuple)):
            size += len(item)
            stack += item[: LIMIT - size + 1] if size <= LIMIT else []
        elif isinstance(item, dict):
            size += len(item)
            stack += [*item.keys(), *item.values()] if size <= LIMIT else []
        elif isinstance(item, int) and item.bit_length() > 256:
            raise TooLarge(f"a number of {item.bit_length():,} bits, more than 256")
        check_size(size)
    return size


def bounded(value):
    """The value itself, if it is not too large."""
    size_of(value)
    return value


def check_size(size: int) -> None:
    if size > LIMIT:
        raise TooLarge(f"a value of {size:,} characters or items, more than {LIMIT:,}")


def join(items, separator="", attribute=None):
    items = [item[attribute] if attribute is not None else item for item in items]
    check_size(len(items) * len(str(separator)))
    return str(separator).join(str(item) for item in bounded(items))


def replace(text, old, new, count=-1):
    text, old, new = str(bounded(text)), str(bounded(old)), str(bounded(new))
    check_size(text.count(old) * len(new))
    return text.replace(old, new, -1 if count is None else count)


def indent(text, width=4, first=False, blank=False):
    check_size((str(text).count("\n") + 1) * (width if isinstance(width, int) else len(width)))
    return do_indent(str(text), width, first, blank)


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    """As transformers has it: no HTML escapes, Unicode as it is."""
    if indent is not None and (indent if isinstance(indent, int) else len(indent)) > 16:
        raise TooLarge(f"tojson(indent={indent!r}), more than 16")
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    size, chunks = 0, []
    for chunk in encoder.iterencode(bounded(value)):
        size += len(chunk)
        check_size(size)
        chunks.append(chunk)
    return "".join(chunks)
