"""Running a stranger's template: Jinja's sandbox, with bounds on memory and time.

A chat template is a program that came with a download. Jinja's sandbox keeps it away from Python (no dunder attributes, no
imports, nothing mutable), but it may still ask for 'a' * 10**10 or loop for a year. Two rules bound memory: no value may
hold more than LIMIT characters and items (bounds.py), checked before whatever makes a value larger than its parts; and all
values made in one rendering hold no more than BUDGET. One bounds time: every turn of a loop and every call looks at a deadline.

Only what grows in known ways is offered: lists of allowed filters and string methods, as templates in the wild use them.
"""

import re
import threading
import time
from datetime import datetime

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from minillm.errors import TokenizerError
from minillm.model.tokenizer.bounds import LIMIT, TooLarge, bounded, check_size, indent, join, replace, size_of, tojson

SECONDS = 5.0
BUDGET = 25 * LIMIT

FILTERS = """abs capitalize count d default dictsort first float groupby int items last length list lower map max min reject
    rejectattr reverse select selectattr sort string title trim unique upper wordcount""".split()  # noqa: SIM905
STRING_METHODS = """capitalize count endswith find index isalnum isalpha isdecimal isdigit islower isnumeric isspace isupper join
    lower lstrip partition removeprefix removesuffix replace rfind rindex rpartition rsplit rstrip split splitlines startswith
    strip title upper""".split()  # noqa: SIM905


def raise_exception(message):
    raise TemplateError(message)


class Generation(Extension):
    """{% generation %} ... {% endgeneration %} marks for training what the assistant said; here it is only its content."""

    tags = {"generation"}

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with the two bounds; every override checks, then does what its parent does."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self):
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation], finalize=self.made)
        own = {"join": join, "replace": replace, "indent": indent, "tojson": tojson, "safe": lambda value: value}
        offered = {name: self.filters[name] for name in FILTERS} | own
        self.filters = {name: self._guard(function) for name, function in offered.items()}
        allowed = {name: self.globals[name] for name in ("range", "dict", "namespace")}
        clock = {"strftime_now": lambda form: datetime.now().strftime(form)}
        self.globals = allowed | clock | {"raise_exception": raise_exception}
        self.state = threading.local()  # a server renders in several threads

    def start(self):
        self.state.deadline, self.state.made = time.monotonic() + SECONDS, 0

    def _guard(self, function):
        def guarded(*args, **kwargs):
            self.tick()
            for value in (*args, *kwargs.values()):
                bounded(value)
            return self.made(function(*args, **kwargs))

        guarded.__dict__.update(getattr(function, "__dict__", {}))  # Jinja's own marks: what the function wants passed first
        return guarded

    def tick(self) -> bool:
        if time.monotonic() > self.state.deadline:
            raise TooLarge(f"more than {SECONDS:g} seconds")
        return True

    def made(self, value):  # what an operator, a call, a filter, an output or [a, b] gives: nesting a list in itself doubles it
        self.state.made += size_of(value)
        if self.state.made > BUDGET:
            raise TooLarge(f"values of {self.state.made:,} characters and items in all, more than {BUDGET:,}")
        return value

    def grown(self, *parts) -> str:  # a ~ b ~ c
        return self.made("".join(str(part) for part in bounded(parts)))

    def concat(self, parts) -> str:  # the output, and what {% set %} blocks and macros return
        size, pieces = 0, []
        for part in parts:
            size += len(part)
            check_size(size)
            pieces.append(part)
        return "".join(pieces)

    def _parse(self, source, name, filename):
        tree = super()._parse(source, name, filename)
        return _instrument(tree)

    def call_binop(self, context, operator, left, right):
        self.tick()
        bounded([left, right])
        if operator == "*" and isinstance(left, int) != isinstance(right, int):
            times, value = (left, right) if isinstance(left, int) else (right, left)
            check_size(times * len(value) if isinstance(value, (str, list, tuple)) else 0)
        if operator == "**" and isinstance(left, int) and isinstance(right, int):
            check_size(left.bit_length() * abs(right))
        if operator == "%" and isinstance(left, str) and re.search(r"%[^%a-zA-Z]*[\d*]", left):
            raise TooLarge("a format with a field width")
        return self.made(super().call_binop(context, operator, left, right))

    def call(self, context, function, *args, **kwargs):
        self.tick()
        for value in (*args, *kwargs.values()):
            bounded(value)
        owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
        if isinstance(owner, str) and name in ("join", "replace"):
            return self.made(join(*args, owner) if name == "join" else replace(owner, *args, **kwargs))
        return self.made(super().call(context, function, *args, **kwargs))

    def wrap_str_format(self, value):
        return None  # then is_safe_attribute is asked, and says no to str.format: '{:999999999}'

    def is_safe_attribute(self, obj, attr, value) -> bool:
        if isinstance(obj, str):
            return attr in STRING_METHODS
        return not isinstance(obj, (int, float, bytes)) and super().is_safe_attribute(obj, attr, value)


def _instrument(tree: nodes.Template) -> nodes.Template:
    """Put calls of the environment's tick, grown and made into a parsed template."""

    def call(name, *args):
        return nodes.Call(nodes.EnvironmentAttribute(name), list(args), [], None, None)

    def rebuilt(value):
        if isinstance(value, list):
            return [rebuilt(item) for item in value]
        if not isinstance(value, nodes.Node):
            return value
        for field, child in value.iter_fields():
            setattr(value, field, rebuilt(child))
        if isinstance(value, nodes.For):
            value.body.insert(0, nodes.ExprStmt(call("tick")))
        elif isinstance(value, nodes.Concat):
            return call("grown", *value.nodes)
        elif isinstance(value, (nodes.List, nodes.Dict)) or (isinstance(value, nodes.Tuple) and value.ctx == "load"):
            return call("made", value)
        return value

    tree = rebuilt(tree)
    tree.set_environment(tree.environment)
    for node in tree.find_all(nodes.Node):
        node.lineno = node.lineno or 1
    return tree


def compile_template(source: str):
    """A function of the template's variables that returns the rendered text. Errors: TokenizerError, one line."""
    environment = BoundedEnvironment()

    def guarded(action, *args, **kwargs):
        environment.start()
        try:
            return action(*args, **kwargs)
        except Exception as error:  # a template can raise whatever its expressions can: type errors, division by zero, recursion
            line = f" (line {error.lineno})" if getattr(error, "lineno", None) else ""
            said = " ".join(str(error).split())[:200] or type(error).__name__
            raise TokenizerError(f"chat template{line}: {said}") from None

    if len(source) > LIMIT // 10:
        raise TokenizerError(f"chat template: {len(source):,} characters, more than {LIMIT // 10:,}")
    template = guarded(environment.from_string, source)

    def render(**variables) -> str:
        return guarded(template.render, **variables)

    return render
