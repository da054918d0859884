"""Every command that the project advertises: found where a reader meets it, parsed by the real parser, checked for what it names.

    in Markdown, TOML, shell, notebooks     code spans and lines of code; of a deck of cards, every text and each experiment
    in docstrings                           the same
    in other strings of the package         messages that tell a user what to run: f-strings with {…} for what is filled in

A command in running text stands in backticks, or ends at punctuation. A span that holds one word alone (`minillm serve`) is
the name of a command, and need not be complete.
"""

import ast
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from minillm.cli import COMMANDS, parser
from minillm.course.exercises.index import Course
from minillm.course.interview.cards import choose_decks, read_deck, read_decks
from minillm.errors import MiniLLMError

ROOT = Path(__file__).parents[2]
MODULE = r"(?:\S*python3? -m )?minillm(?:\.\w+)*"
SPAN = re.compile(rf"`({MODULE} [^`]{{1,300}})`")
PROSE = re.compile(rf"(?<![`\w./-])({MODULE} (?:{'|'.join(COMMANDS)}|[a-z|]+ [A-Z])\b.*)")
LINE = re.compile(rf"^(?: {{4,}}|\$ )((?:\S*/)?{MODULE} [a-z].*)$")
CODE = re.compile(rf"^(?: {{4,}}|\$ |.*&& )?((?:\S*/)?{MODULE} [a-z].*)$")
END = re.compile(r"`|;|\)|\(|,\s|,$|\.(?:\s|$)|:(?:\s|$)|\s#\s|\s{2,}|\s(?:&&|\||→)\s|\s\[?[—–]")
OUTPUTS = ("out", "work", "tests", "anki", "gradescope", "classroom50")  # folders and files that need not be there


@dataclass(frozen=True)
class Advertised:
    """One command line, and the file and line that names it."""

    text: str
    where: str

    @property
    def is_name(self):
        """`minillm serve` in a sentence names the command."""
        return len(self.text.split()) == 2 and self.text.split()[1] in COMMANDS


def sources():
    """Files that tell a user what to run."""
    for pattern in ("*.md", ".ci/run", "pyproject.toml", "lessons/**/*.md", "lessons/cards/*.toml", "data/**/*.md",
                    "data/**/*.toml", "data/**/*.py", "notebooks/*.py", "minillm/**/*.py", "minillm/course/bundle/*",
                    "tests/conftest.py"):  # fmt: skip
        yield from (path for path in sorted(ROOT.glob(pattern)) if path.is_file())


def collect():  # -> [Advertised]
    return [one for path in sources() for one in of_file(path)]


def of_file(path):
    source, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    if path.suffix == ".py" and "notebooks" not in path.parts:
        return [Advertised(text, f"{name}:{line}") for line, string in strings(source) for text in commands(string, LINE)]
    if path.parent.name == "cards" and path.suffix == ".toml":
        texts = [(card.id, text) for card in read_deck(path) for text in (card.question, card.answer, card.experiment or "")]
        return [Advertised(text, f"{name} {id}") for id, string in texts for text in commands(string, CODE)]
    if path.suffix == ".py":
        source = "\n".join(line.removeprefix("# ").removeprefix("#") for line in source.splitlines())
    found, begin, fenced = [], 0, path.suffix in (".sh", "")
    for paragraph in re.split(r"(?<=\n)(?=\n)|(?<=\n)(?=\|)|(?<=\n)(?=    )|(?<=\n)(?=```)", source):
        line = source.count("\n", 0, begin) + 1
        fenced ^= paragraph.startswith("```")
        found += [Advertised(text, f"{name}:{line}") for text in commands(paragraph, CODE if fenced else LINE)]
        begin += len(paragraph)
    return found


def strings(source):
    """(line, text) of each string of a Python file; what an f-string fills in is {…}, dropped where it is glued to a word."""
    inside = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in node.values}
            parts = [part.value if isinstance(part, ast.Constant) else "{…}" for part in node.values]
            yield node.lineno, re.sub(r"(?<=\w)\{…\}", "", "".join(parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.lineno, node.value


def commands(text, line_of_code):  # -> command lines, as a reader would type them
    """Those of a paragraph: in spans first, then in what is left. line_of_code: LINE, or CODE where a fence is not indented."""
    found = [" ".join(span.split()) for span in SPAN.findall(text)]
    for line in SPAN.sub("``", text).splitlines():
        if match := line_of_code.match(line) or PROSE.search(line):
            command = END.split(match[1], maxsplit=1)[0].strip()
            found += [command.rpartition('"')[0] if command.count('"') % 2 else command]
    found = [command for command in found if not re.search("@[A-Z]+@", command)]  # a template, which release fills in
    return [one for command in found for one in alternatives(command.replace("[", "").replace("]", "").replace(" ...", ""))]


def alternatives(command):  # "x a|b|c F" -> "x a F", "x b F", "x c F"
    choice = next((word for word in command.split() if re.fullmatch(r"\w+(\|\w+)+", word)), None)
    return [command.replace(choice, one) for one in choice.split("|")] if choice else [command]


def argv(text):  # "python -m minillm course check 01.2" -> ["course", "check", "01.2"]; None for another module of the package
    words = shlex.split(re.split(r" [|>] ", text)[0])  # what a pipe does with it is another program's
    if words[0].endswith(("python", "python3")):
        words = words[2:]
    module = words[0].rpartition("/")[2].split(".")
    if module != ["minillm"]:
        return None
    return [("model" if "bench" in before else STAND_INS.get(word, word)) if word in STAND_INS else word
            for before, word in zip(words, words[1:], strict=False)]  # fmt: skip


PARSER, COURSE, DECKS = parser(), Course(), read_decks()  # read once
STAND_INS = {"{…}": "01", "NN": "01", "NN.k": "01.1", "ID": "01", "N": "1", "URL": "http://127.0.0.1:1", "NAME=PATH": "name=path"}
EXAMPLES = {"03.9": "lessons/instructors.md"}  # the id that an instructor's own exercise would have: there must be none


def wrong(advertised):  # -> what is wrong with a command line, or None
    """Parse it with the real parser, and look up what it names."""
    try:
        words = argv(advertised.text)
    except ValueError as error:
        return f"no command line: {error}"
    if words is None:
        module = ROOT.joinpath(*advertised.text.split()[2].split(".")).with_suffix(".py")
        return None if module.is_file() and "__main__" in module.read_text() else f"no module to run: {module}"
    try:
        args = PARSER.parse_args(words)
    except MiniLLMError as error:
        return None if advertised.is_name else str(error)
    except SystemExit as exit_:
        return None if advertised.is_name or not exit_.code else "the parser refuses it"
    return unknown(args, advertised.where)


def unknown(args, where):  # -> what the arguments name that is not there, or None
    from minillm.model import zoo

    try:
        ids = getattr(args, "ids", None) or []
        ids = [ids] if isinstance(ids, str) else ids
        COURSE.chosen([id for id in ids if not (id in EXAMPLES and where.startswith(EXAMPLES[id]))])
        if getattr(args, "deck", None):
            choose_decks(DECKS, args.deck)
        known = {*zoo.EMBEDDED, *zoo.MODELS}
        for name in ("model", "draft", "name"):
            value = getattr(args, name, None)
            if isinstance(value, str) and re.fullmatch(r"[a-z][a-z0-9.-]+(?<!gguf)", value) and value not in known:
                return f"no model is called {value!r}"
    except MiniLLMError as error:
        return str(error)
    for name, value in vars(args).items():
        is_path = name not in OUTPUTS and isinstance(value, str) and re.fullmatch(r"[\w.-]+/[\w./-]+", value)
        if is_path and not (ROOT / value).exists():
            return f"there is no {value}"
    return None
