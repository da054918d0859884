"""A name becomes a path: a known model, a file, a folder, or one on the hub. No network."""

import sys
import types
from pathlib import Path

import pytest

from minillm.errors import ModelError
from minillm.model import zoo


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("MINILLM_CACHE", str(folder))
    return folder


# --- names --------------------------------------------------------------------------------------------------------------


def test_a_known_model_that_is_absent_says_how_to_get_it():
    with pytest.raises(zoo.ModelNotDownloaded, match="minillm download smollm2-135m"):
        zoo.resolve("smollm2-135m")


@pytest.mark.parametrize("name", ["smollm2", "smolm2-135m", "SMOLLM2", "smollm-135m"])
def test_a_misspelt_name_gets_the_nearest_one(name):
    for ask in (zoo.resolve, zoo.download):
        with pytest.raises(ModelError, match="did you mean 'smollm2-135m'") as caught:
            ask(name)
        assert not isinstance(caught.value, zoo.ModelNotDownloaded)


@pytest.mark.parametrize("name", ["", "zzz", "gpt"])
def test_a_name_near_to_nothing_gets_the_known_ones(name):
    with pytest.raises(ModelError, match="there are: tiny, tiny-draft, smollm2-135m"):
        zoo.resolve(name)


def test_a_path_is_itself_and_a_missing_one_is_no_misspelt_name(tmp_path):
    file = tmp_path / "some.gguf"
    with pytest.raises(ModelError, match="no such file"):
        zoo.resolve(file)
    file.write_bytes(b"GGUF")
    assert zoo.resolve(file) == zoo.resolve(str(file)) == file


def test_a_folder_needs_config_and_safetensors(tmp_path):
    for missing in ("config.json", "model.safetensors"):
        with pytest.raises(ModelError, match="expected config.json and .*safetensors"):
            zoo.resolve(tmp_path)
        (tmp_path / missing).touch()
    assert zoo.resolve(tmp_path) == tmp_path


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, "home/.cache/minillm"),
        ("linux", {"XDG_CACHE_HOME": "xdg"}, "xdg/minillm"),
        ("darwin", {"XDG_CACHE_HOME": "xdg"}, "home/Library/Caches/minillm"),
        ("win32", {"LOCALAPPDATA": "local"}, "local/minillm"),
        ("win32", {}, "home/AppData/Local/minillm"),
        ("linux", {"MINILLM_CACHE": "mine", "XDG_CACHE_HOME": "xdg"}, "mine"),
    ],
)
def test_the_cache_folder_of_each_platform(monkeypatch, platform, variables, expected):
    for name in ("MINILLM_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: Path("home"))
    assert zoo.cache_folder() == Path(expected)


# --- the hub ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["hf:", "hf:a.gguf", "hf:org/a.gguf", "hf:org/repo/", "hf:org/repo/a.bin", "hf:../repo/a.gguf", "hf:org/../a.gguf"]
    + ["hf:org/repo/../a.gguf", "hf:org/repo/./a.gguf", "hf:org//a.gguf", "hf:/org/repo/a.gguf", "hf:org/repo/..\\a.gguf"]
    + ["hf:org/repo/a\n.gguf", "hf:org/repo/a?x=.gguf", "hf:org/repo/c:\\a.gguf"],
)
def test_malformed_hub_names_are_refused_before_anything_is_imported(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for ask in (zoo.resolve, zoo.download):
        with pytest.raises(ModelError, match="expected hf:ORG/REPO/FILE.gguf, found"):
            ask(name)


def test_hub_names_have_a_repository_and_a_file():
    assert zoo.parse_hub_name("hf:org/repo-GGUF/a.Q4_0.gguf") == ("org/repo-GGUF", "a.Q4_0.gguf")
    assert zoo.parse_hub_name("hf:org/repo/q4/a-00001-of-00002.gguf") == ("org/repo", "q4/a-00001-of-00002.gguf")


def test_a_missing_extra_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for ask in (zoo.resolve, zoo.download):
        with pytest.raises(ModelError, match=r"pip install 'minillm-course\[hub\]'"):
            ask("hf:org/repo/a.gguf")


def test_the_hub_is_asked_for_repository_and_file(monkeypatch, tmp_path):
    here, hub = {}, types.ModuleType("huggingface_hub")
    hub.try_to_load_from_cache = lambda repo, file: here.get((repo, file))
    hub.hf_hub_download = lambda repo, file: here.setdefault((repo, file), str(tmp_path / file))
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with pytest.raises(zoo.ModelNotDownloaded, match="minillm download hf:org/repo/a.gguf"):
        zoo.resolve("hf:org/repo/a.gguf")
    assert zoo.download("hf:org/repo/a.gguf") == zoo.resolve("hf:org/repo/a.gguf") == tmp_path / "a.gguf"


@pytest.mark.parametrize(
    ("raised", "found"),
    [(ConnectionError("no route\nmore lines"), "no route"), (ValueError(), "ValueError"), (KeyboardInterrupt(), "cancelled")],
)
def test_what_the_hub_raises_becomes_one_line(monkeypatch, raised, found):
    def fail(repo, file):
        raise raised

    hub = types.ModuleType("huggingface_hub")
    hub.hf_hub_download = fail
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with pytest.raises(ModelError, match=found) as caught:
        zoo.download("hf:org/repo/a.gguf")
    assert "\n" not in str(caught.value)
