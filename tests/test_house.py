"""The house: imports only go down, starting up is light, and nothing of this machine or of another project is in it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "minillm"
FLOORS = (  # from the ground up; a module may import from its own floor and from any below
    {"errors", "files", "folders", "memory", "cores", "plots", "terminal"},
    {"layers", "attention", "quantization", "formats", "metrics", "costs"},
    {"backends"},
    {"cache"},
    {"model"},
    {"scheduler", "load", "training", "calibration", "speculative"},
    {"engine", "llm"},
    {"server", "gateway", "simulator"},
    {"cli", "tour", "course", "bench", "claims", "__main__", "__init__"},
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def room(path):
    """The top-level module or folder that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """Rooms of this package that a file imports, with the line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "minillm":
            parts = node.module.split(".")
            names = [parts[1]] if len(parts) > 1 else [a.name for a in node.names]
        elif isinstance(node, ast.Import):
            names = [a.name.split(".")[1] for a in node.names if a.name.startswith("minillm.")]
        else:
            continue
        yield from ((name, node.lineno) for name in names if name in FLOOR)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_go_down(path):
    here = room(path)
    assert here in FLOOR, f"{path}: say in FLOORS on which floor {here!r} lives"
    up = [f"{path}:{line} imports minillm.{name}" for name, line in imports(path) if FLOOR[name] > FLOOR[here]]
    assert not up, f"floor {FLOOR[here]} may not import from above: {up}"


def modules(folder, package):
    """{dotted name: path} of the sources below a folder."""
    return {
        ".".join((package, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in folder.rglob("*.py")
    }


def imported(path, known):
    """Modules of `known` that a file imports anywhere, in functions too; `from package import module` means the module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def arrows(found, rename=lambda name: name):
    """{module: what it imports}, of modules in `found`; rename: to draw rooms in place of modules."""
    graph = {}
    for name, path in found.items():
        targets = {rename(other) for other in imported(path, found) if other in found}
        graph.setdefault(rename(name), set()).update(targets - {rename(name)})
    return graph


def circle(graph):
    """Some circle of a graph as a list, or []."""
    done, path = set(), []

    def walk(name):
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        path.append(name)
        for other in sorted(graph.get(name, ())):
            if found := walk(other):
                return found
        done.add(path.pop())
        return []

    return next((found for name in sorted(graph) if (found := walk(name))), [])


def rooms_of(name):
    return name.split(".")[1] if "." in name else name


def test_no_rooms_and_no_modules_import_each_other_in_a_circle():
    found = modules(PACKAGE, "minillm")
    assert circle(arrows(found)) == [], "modules"
    assert circle(arrows(found, rooms_of)) == [], "rooms"


PURE = (*sorted(PACKAGE.glob("scheduler/*.py")), *(PACKAGE / f"cache/{n}.py" for n in (
    "block_pool", "block_table", "policies", "prefix", "prefix_cache", "radix")))  # fmt: skip
SERVING = [path for room in ("server", "engine", "gateway", "scheduler", "load") for path in PACKAGE.glob(f"{room}/*.py")]
SERVING += [PACKAGE / "llm.py"]
LAWS = (  # (who, may not import, why)
    (PURE, {"numpy", "time", "random"}, "the scheduler and the bookkeeping of blocks know no arrays and no clock"),
    (SERVING, {"minillm.training", "minillm.bench", "minillm.course"}, "serving needs no training"),
    (sorted(PACKAGE.glob("simulator/*.py")), {"minillm.server", "minillm.engine", "minillm.model"}, "it knows no model"),
    (sorted(PACKAGE.glob("speculative/*.py")), {"minillm.bench", "minillm.training"}, "a benchmark calls it, not the other way"),
)  # fmt: skip


def breaches(paths, banned):
    """["file imports what"] where a law is broken."""
    return [
        f"{path.name} imports {name}" for path in paths for name in imported(path, {})
        if any(name == b or name.startswith(b + ".") for b in banned)
    ]  # fmt: skip


@pytest.mark.parametrize(("paths", "banned", "why"), LAWS, ids=[why for *_, why in LAWS])
def test_the_laws_of_the_house(paths, banned, why):
    assert breaches(paths, banned) == [], why


def test_each_planted_violation_is_seen(tmp_path):
    def plant(name, code):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(code)
        return file

    up = plant("bad.py", "def f():\n    from minillm.engine.engine import Engine\n")
    assert list(imports(up)) == [("engine", 2)]
    assert breaches([plant("step.py", "import numpy as np\n")], {"numpy"}) == ["step.py imports numpy"]
    assert breaches([plant("plan.py", "def f():\n    from time import perf_counter\n")], {"time"}) == ["plan.py imports time"]
    assert breaches([plant("llm.py", "import minillm.training.lora\n")], {"minillm.training"})
    plant("p/a.py", "def f():\n    from p import b\n")
    plant("p/b.py", "import p.a\n")
    assert circle(arrows(modules(tmp_path / "p", "p"))) == ["p.a", "p.b"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_is_short_and_opens_with_its_idea(path):
    source = path.read_text()
    assert len(source.splitlines()) <= 300, f"{path} has {len(source.splitlines())} lines: is there a second idea in it?"
    assert ast.get_docstring(ast.parse(source)), f"{path} has no module docstring"


ONE_ADDRESS = (  # (what is written once, where)
    (r"os\.replace|\bfsync\b", {"files.py", "model/wheel.py"}),  # a wheel's draft is a folder that pip fills
    (r"\bdifflib\b", {"errors.py"}),
    (r"\breprlib\b", {"formats/expect.py"}),
    (r"object_pairs_hook", {"formats/json_file.py"}),
)


@pytest.mark.parametrize(("pattern", "places"), ONE_ADDRESS)
def test_it_is_written_in_one_place(pattern, places):
    texts = {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in SOURCES}
    assert {name for name, text in texts.items() if re.search(pattern, text)} == places


def test_what_several_tests_share_is_in_support():
    assert [p.name for p in (ROOT / "tests").glob("*.py") if not p.name.startswith("test_")] == ["conftest.py"]


def in_fresh_python(code):
    """Run code in a new interpreter, give back what it prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys; before = set(sys.modules); import minillm; print(*{m.split('.')[0] for m in set(sys.modules) - before})"
    loaded = set(in_fresh_python(code).split())
    assert not loaded & {"numpy", "numba", "matplotlib", "cupy", "regex", "jinja2", "tqdm"}, loaded


def test_help_loads_nothing_heavy():
    code = (
        "import sys, minillm.cli\n"
        "try: minillm.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print('LOADED', *sorted({m.split('.')[0] for m in sys.modules}))"
    )
    loaded = set(in_fresh_python(code).split("LOADED")[1].split())
    assert not loaded & {"numpy", "numba", "matplotlib", "cupy", "regex", "jinja2"}, loaded


def test_the_core_needs_numpy_alone():
    code = "import sys, minillm; from minillm import SamplingParams; import minillm.model.transformer; print(*sys.modules)"
    loaded = {m.split(".")[0] for m in in_fresh_python(code).split()}
    assert not loaded & {"numba", "matplotlib", "cupy", "regex", "jinja2", "tqdm"}, loaded


def test_no_path_of_a_machine_and_no_host_of_a_registry_is_in_the_project():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    banned = re.compile(rb"(?<![\w.])/(?:work|root|home/\w+|tmp)/\w|files\.pythonhosted|pypi\.org/simple")
    found = []
    for name in filter(None, listed.stdout.split(b"\0")):
        path = ROOT / name.decode()
        if path.suffix in (".py", ".toml", ".md", ".cfg", ".sh", "") and path.is_file() and path != Path(__file__):
            found += [f"{path}: {m[0]}" for m in banned.finditer(path.read_bytes())]
    assert not found, found


def test_the_readme_names_every_command_and_no_file_that_is_not_there():
    from minillm.cli import COMMANDS

    readme = (ROOT / "README.md").read_text()
    assert [c for c in COMMANDS if f"`minillm {c}" not in readme] == []
    named = set(re.findall(r"`((?:minillm|lessons|notebooks|tests)/[\w./]+)`", readme))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_the_picture_of_the_house_is_true(page):
    """Every room that the house shows is there or said to come, every room that is there is shown, and each on its floor."""
    house = re.search(r"```\n 8 .*?```", (ROOT / page).read_text(), re.S)[0].split(" prompt ")[0]
    number, shown = None, {}
    for line in house.strip("`\n").splitlines():
        number = int(line[1]) if line[1:2].isdigit() else number
        shown |= dict.fromkeys(re.findall(r"\w+", line[2:53]), number)  # the names; what is beside them explains
    modules = [p for p in PACKAGE.iterdir() if p.suffix == ".py" or p.is_dir() and any(p.glob("*.py"))]  # no folder left empty
    rooms = {p.name.removesuffix(".py") for p in modules if not p.name.startswith("_")}
    assert rooms - shown.keys() == set(), f"the house in {page} does not show these"
    assert {name: number for name, number in shown.items() if name in rooms and number != FLOOR[name]} == {}, "another floor"
    promised = {name for line in house.splitlines() if "(to come)" in line for name in re.findall(r"(\w+)/", line)}
    assert FLOOR.keys() & shown.keys() - rooms <= promised, "shown, but neither there nor said to come"


def test_contributing_says_where_things_are():
    """Each place of its table is there and defines what it names; each link leads somewhere; each test that it names is here."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    places = re.findall(r"^\| [^|]+ \| \[[^]]+\]\(([^)]+)\)(?: `(\w+)`)? \|$", text, re.M)
    assert len(places) >= 40
    text_of = {path: (ROOT / path).read_text() for path, name in places if name}
    assert [(path, name) for path, name in places if name and not re.search(rf"(def|class) {name}\b", text_of[path])] == []
    assert [link for link in re.findall(r"\]\(([^)#]+)", text) if not (ROOT / link).exists()] == []
    assert [name for name in re.findall(r"`(test_\w+)`", text) if name not in globals()] == []
