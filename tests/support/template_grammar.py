# ruff: noqa: E501, E731
# fmt: off
"""A grammar of Jinja: templates at random, half of them sensible, some that ask for far too much. fuzz_templates.py renders them."""

NAMES = ["messages", "m", "m.content", "m['content']", "m.role", "messages[0]", "messages[-1].content", "tools", "bos_token", "ns", "ns.x",
         "x", "y", "nothing", "loop", "loop.index", "loop.last", "self", "add_generation_prompt", "none", "true", "varargs", "caller"]
DUNDERS = ["__class__", "__mro__", "__globals__", "__init__", "__subclasses__", "__dict__", "gi_frame", "__code__", "_TemplateReference__context",
           "mro", "func_globals", "f_back", "environment", "__builtins__", "__self__", "__reduce__", "__getattribute__"]
METHODS = ["upper", "split", "strip", "replace", "join", "startswith", "items", "keys", "get", "append", "pop", "update", "format", "format_map",
           "center", "ljust", "zfill", "expandtabs", "encode", "count", "index", "translate", "to_bytes", "bit_length", "copy", "sort", "extend",
           "setdefault", "next", "cycle", "title", "rsplit", "partition", "splitlines", "removeprefix", "fromkeys", "isdigit"]
FILTERS = ["abs", "attr", "batch", "capitalize", "center", "count", "default", "dictsort", "escape", "filesizeformat", "first", "float",
           "forceescape", "format", "groupby", "indent", "int", "items", "join", "last", "length", "list", "lower", "map", "max", "min", "pprint",
           "random", "reject", "rejectattr", "replace", "reverse", "round", "safe", "select", "selectattr", "slice", "sort", "string",
           "striptags", "sum", "title", "tojson", "trim", "truncate", "unique", "upper", "urlencode", "urlize", "wordcount", "wordwrap",
           "xmlattr", "no_such_filter"]
TESTS = ["defined", "undefined", "string", "mapping", "iterable", "none", "number", "sequence", "odd", "even", "divisibleby(3)", "in(x)",
         "sameas(y)", "eq(1)", "callable", "true", "upper", "no_such_test"]
BINARY = ["+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", ">=", "and", "or", "in", "not in"]
STRINGS = ["", "a", "é😀", "<|im_end|>", "user", "%s", "%(a)9s", "{}", "{0:>9}", "{0.__class__}", "\\n", "%Y-%m-%d", "content", "role", "upper"]
HUGE = ["'a' * 10 ** 9", "[0] * 10 ** 8", "10 ** (10 ** 9)", "'%(a)300000000s' % {'a': 1}", "'%999999999d' % 1", "'{:999999999}'.format(1)",
        "strftime_now('%99999999d' ~ 'x' * 99999)", "'a'.center(10 ** 9)", "'x' | center(10 ** 9)", "lipsum(n=10 ** 6)", "range(99999) | list",
        "range(10 ** 9) | list", "range(40000) | reject('in', range(40000) | list) | list", "('a' * 800000) | trim('b' * 800000 ~ 'a')",
        "'a' * 4000001", "('a ' * 99999) | wordwrap(1)", "range(99999) | batch(1) | list", "('a' * 20000).replace('a', 'a' * 20000)",
        "[1] | tojson(indent=10 ** 9)", "(1).to_bytes(10 ** 9, 'big')", "'a' * 10 ** 7 ~ x", "range(3000) | map('string') | join('b' * 10000)",
        "[[1] * 9999] * 9999 | list", "(2 ** 4000) ** 500 | string", "'<' * 999999 | striptags", "'http://a ' * 50000 | urlize"]
BOMBS = ["{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
         "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}", "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
         "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
         "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
         "{% set ns = namespace(x=3) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}{{ ns.x }}",
         "{% for i in range(1500) %}" + "x" * 9000 + "{% endfor %}"]


class Grammar:
    """Random templates, half of them sensible throughout. d: how deep a construct may still nest."""

    def __init__(self, rng, huge):
        self.rng, self.huge, self.wild = rng, huge, rng.choice((0, 0, 0.1, 0.5))

    def of(self, *choices):
        chosen = self.rng.choice(choices)
        return chosen() if callable(chosen) else chosen

    def template(self):
        if self.rng.random() < self.huge / 3:
            return self.of(*BOMBS)
        text = "{% set m = messages[1] %}" + "".join(
            self.statement(self.rng.randint(1, 4)) for _ in range(self.rng.randint(1, 6))
        )
        if self.rng.random() < self.wild / 2:  # a slip of the pen
            at = self.rng.randrange(len(text) + 1)
            text = text[:at] + self.of("", "{{", "%}", "'", "(", "{%", "\x00", "-") + text[at + self.rng.randint(0, 3) :]
        return text

    def number(self):
        return str(self.of(0, 1, -1, 2, 3, 7, 100, 5000, 2.5, 1e308, 10**30, "2 ** 300"))

    def arguments(self, d):
        names = ("", "", "", "attribute=", "width=", "count=", "default=", "indent=", "n=", "case_sensitive=")
        return ", ".join(self.of(*names) + self.expression(d - 1) for _ in range(self.rng.randint(0, 3)))

    def text(self, d):
        """An expression that is a string, as real templates have them."""
        t = lambda: (
            self.text(d - 1) if d > 0 else self.of("'a'", "m.content", "m['role']", "bos_token", "messages[0].content", "'\\n'")
        )
        return self.of(
            t, lambda: f"({t()} ~ {t()})", lambda: f"({t()} ~ {self.whole(d - 1)})", lambda: f"{t()}.strip()", lambda: f"({t()} | string | trim)",
            lambda: f"({t()} if {t()} else {t()})", lambda: f"({t()} | default('x', true) | {self.of('upper', 'string', 'safe', 'title', 'e')})",
            lambda: f"({self.items(d - 1)} | join({t()} | string))", lambda: f"({self.items(d - 1)} | tojson)", lambda: f"({t()} | string)[1:]",
            lambda: f"({t()} | string | replace('a', 'b') | indent(2))", lambda: f"('x' * {self.whole(d - 1)})", "strftime_now('%Y')",
        )

    def whole(self, d):
        """A small whole number."""
        n = lambda: self.whole(d - 1) if d > 0 else self.of("0", "1", "2", "7", "-3")
        return self.of(n, lambda: f"({n()} {self.of('+', '*', '-')} {n()})", lambda: f"({self.items(d - 1)} | length)", lambda: f"({n()} % 5)",
                       lambda: f"('%d' % {n()} | int)", lambda: f"({n()} ** 2)", lambda: f"({n()} // 3)")

    def items(self, d):
        """A list."""
        i = lambda: self.items(d - 1) if d > 0 else self.of("messages", "tools", "[1, 'b']", "range(3)", "[]", "'ab'")
        return self.of(i, lambda: f"({i()} | list)[{self.of('', '1')}:{self.of('', '-1')}]", lambda: f"({i()} | reverse | list)",
                       lambda: f"(messages | map(attribute={self.of('role', 'content', 'x')!r}) | list)", lambda: f"({i()} | batch(2) | list)",
                       lambda: f"(messages | {self.of('selectattr', 'rejectattr')}('role', {self.of('eq', 'ne')!r}, 'user') | list)",
                       lambda: f"({i()} | map('string') | unique | sort)", lambda: f"({i()} | select({self.of('defined', 'string')!r}) | list)")

    def expression(self, d):
        if self.rng.random() < self.huge / 8:
            return f"({self.of(*HUGE)})"
        if self.rng.random() >= self.wild:
            return self.rng.choice((self.text, self.whole, self.items))(d)
        if d <= 0:
            return self.of(*NAMES, *NAMES, self.number, self.number, lambda: repr(self.of(*STRINGS)), "[]", "{}", "()")
        e = lambda: self.expression(d - 1)
        return self.of(
            lambda: f"({e()} {self.of(*BINARY)} {e()})",
            lambda: f"({e()} ** {self.of('2', '-1', '0.5', e)})",
            lambda: f"({e()} | {self.of(*FILTERS)})",
            lambda: f"({e()} | {self.of(*FILTERS)}({self.arguments(d)}))",
            lambda: f"({e()} | {self.of('map', 'select', 'reject')}({self.of(*FILTERS, *TESTS)!r}, {e()}) | {self.of('list', 'join', 'first')})",
            lambda: f"({e()} | {self.of('selectattr', 'rejectattr', 'groupby', 'map', 'sum', 'sort')}(attribute={self.of(*STRINGS)!r}) | list)",
            lambda: f"({e()} is {self.of('', 'not ')}{self.of(*TESTS)})",
            lambda: f"{e()}.{self.of(*METHODS, *DUNDERS)}",
            lambda: f"{e()}.{self.of(*METHODS, *DUNDERS)}({self.arguments(d)})",
            lambda: f"{e()}[{self.of(e, repr(self.of(*STRINGS, *DUNDERS)))}]",
            lambda: f"{e()}[{self.of('', e)}:{self.of('', e)}{self.of('', '::-1', ':2', ':0')}]",
            lambda: f"({e()} if {e()} else {e()})",
            lambda: f"[{e()}, {e()}]",
            lambda: f"{{{self.of(*STRINGS)!r}: {e()}, 'k': {e()}}}",
            lambda: f"range({self.number()})",
            lambda: f"{self.of('namespace', 'dict', 'cycler', 'joiner', 'range', 'f', 'loop', 'caller', 'super')}({self.arguments(d)})",
            lambda: f"strftime_now({self.of(*STRINGS)!r})",
            lambda: f"({self.of(*STRINGS)!r} % {e()})",
        )

    def statement(self, d):
        e, s = lambda: self.expression(self.rng.randint(0, 3)), lambda: self.statement(d - 1) if d > 0 else "text\n"
        tag = lambda inside: f"{{%{self.of('', '', '-', '+')} {inside} {self.of('', '', '-')}%}}"
        sensible = (
            lambda: f"{{{{{self.of('', '-')} {e()} {self.of('', '-')}}}}}",
            lambda: f"{{{{ {e()} }}}}{s()}",
            lambda: f"  <|im_start|>{{{{ m.role }}}}\n{s()}<|im_end|>\n",
            lambda: tag(f"set {self.of('x', 'y')} = {e()}") + s(),
            lambda: tag("set ns = namespace(x=1, y=[])") + s() + tag(f"set ns.x = {e()}"),
            lambda: tag("set x") + s() + tag("endset"),
            lambda: (
                tag("for m in messages")
                + s()
                + s()
                + self.of("", tag("break"), tag("continue"), "{{ loop.index }}")
                + tag("endfor")
            ),
            lambda: (
                tag(f"for x in {self.items(2)} if x is {self.of('defined', 'string')}") + s() + tag("else") + s() + tag("endfor")
            ),
            lambda: tag("for x in [[1], [2, [3]]] recursive") + "{{ loop(x) if x is not number else x }}" + tag("endfor"),
            lambda: tag(f"for x in range({self.of(2, 30, 500)})") + s() + tag("endfor"),
            lambda: tag(f"if {e()}") + s() + self.of("", tag(f"elif {e()}") + s(), tag("else") + s()) + tag("endif"),
            lambda: tag(f"macro f(x, y={e()})") + s() + tag("endmacro") + f"{{{{ f({e()}) }}}}",
            lambda: tag("macro g()") + "{{ caller() }}" + tag("endmacro") + tag("call g()") + s() + tag("endcall"),
            lambda: tag(f"filter {self.of('upper', 'trim', 'indent', 'length')}") + s() + tag("endfilter"),
            lambda: tag(f"with x = {e()}") + s() + tag("endwith"),
            lambda: "{% raw %}{{ x }}{% endraw %}{# a comment #}",
            lambda: tag("generation") + s() + tag("endgeneration"),
        )
        strange = (
            lambda: tag(f"set {self.of('x', 'ns', 'ns.x', 'x, y', 'range', 'messages')} = {e()}"),
            lambda: tag(f"for {self.of('x', 'x, y', 'm')} in {e()}{self.of('', f' if {e()}', ' recursive')}") + s() + self.of("", "{{ loop(x) }}")
            + tag("endfor"),
            lambda: tag(f"filter {self.of(*FILTERS)}") + s() + tag("endfilter"),
            lambda: tag(self.of("include 'x'", "import 'os' as os", "from 'x' import y", "extends 'x'", "include messages", "debug", "do x")),
            lambda: tag("block b") + s() + tag("endblock") + self.of("", "{{ self.b() }}"),
            lambda: f"{{{{ raise_exception({e()}) }}}}",
        )
        return self.of(*(strange if self.rng.random() < self.wild / 3 else sensible))
