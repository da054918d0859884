"""Types: mypy under pyproject's own configuration sees what is missing and what is wrong, wherever the list of it reaches."""

import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "pyproject.toml"
SETTINGS = tomllib.loads(CONFIG.read_text())["tool"]["mypy"]["overrides"]
STRICT = next(entry["module"] for entry in SETTINGS if "minillm.errors" in entry["module"])
EXCEPT = next(entry["module"] for entry in SETTINGS if entry.get("disallow_untyped_defs") is False)
NOT_YET = (
    *EXCEPT,
    "minillm.__main__", "minillm.backends.numba_*", "minillm.course.grading*", "minillm.course.notebooks*",
    "minillm.course.plugin",
    *(f"minillm.course.exercises{name}" for name in ("", ".entry", ".indexed", ".overlay", ".warm", ".watchdog")),
)  # fmt: skip
GOOD = "def tokens(blocks: int, size: int) -> int:\n    return blocks * size\n"
PLANTED = {  # what: source, line and code of the error
    "no annotations": ("def tokens(blocks, size):\n    return blocks * size\n", 1, "no-untyped-def"),
    "a wrong result": ("def tokens(blocks: int, size: int) -> int:\n    return str(blocks * size)\n", 2, "return-value"),
    "a wrong call": (GOOD + "TWICE = tokens('two', 2)\n", 3, "arg-type"),
}


def strict(name):
    listed = any(fnmatch(name, pattern) for pattern in STRICT) or f"{name}.*" in STRICT
    return listed and not any(fnmatch(name, pattern) or f"{name}.*" == pattern for pattern in EXCEPT)


@pytest.fixture
def check(tmp_path, monkeypatch):
    """check(name of a module, its source) -> what mypy says of it, as if it were one of the package's."""
    api = pytest.importorskip("mypy.api")
    monkeypatch.chdir(tmp_path)

    def run(name, source):
        file = tmp_path / (name.replace(".", "/") + ".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        for folder in file.relative_to(tmp_path).parents[:-1]:
            (tmp_path / folder / "__init__.py").touch()
        file.write_text(source)
        options = ["--config-file", str(CONFIG), "--cache-dir", str(tmp_path / "cache"), "--follow-imports", "silent", "-m", name]
        said, wrong, status = api.run(options)
        assert status == ("error:" in said) and not wrong, said + wrong
        return said

    return run


def test_a_planted_error_is_seen_on_its_line(check):
    assert "Success: no issues found in 1 source file" in check("minillm.costs.planted", GOOD)
    for what, (source, line, code) in PLANTED.items():
        said = check("minillm.costs.planted", source)
        assert f"planted.py:{line}: error:" in said and f"[{code}]" in said, (what, said)


def test_it_is_the_list_that_asks_for_annotations(check):
    source, *_ = PLANTED["no annotations"]
    assert "Success" in check("minillm.course.grading.planted", source), "a module that is not on the list may have none"


def test_every_public_module_is_on_the_list():
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in (ROOT / "minillm").rglob("*.py")]
    names = sorted(name.removesuffix(".__init__") for name in names)
    excused = {name for name in names if any(fnmatch(name, pattern) or f"{name}.*" == pattern for pattern in NOT_YET)}
    missing = [name for name in names if not strict(name) and name not in excused]
    assert not missing, f"add them to the modules of [[tool.mypy.overrides]] in pyproject.toml: {missing}"
    assert not [name for name in excused if strict(name)]
