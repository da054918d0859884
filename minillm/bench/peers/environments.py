"""Where peers are installed: our own environment, or others, since what they require clashes.

    MINILLM_PEERS=~/venvs/openvino:~/venvs/vllm      folders of virtual environments, or their pythons; `--peer-python` adds one

The process of a peer runs in the first of them that has what it needs, ours being the last. There `minillm` is imported from
this checkout, and nothing else of our environment is: the peer must see its own NumPy.
"""

import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

from minillm.errors import MiniLLMError

VARIABLE = "MINILLM_PEERS"
OLDEST = (3, 11)
FIND = (  # run by another Python
    "import importlib.util as u, json, sys\n"
    "print(json.dumps([sys.version_info[:2], [name for name in sys.argv[1:] if u.find_spec(name)]]))"
)
RUN = (  # a module of ours, in another Python
    "import importlib.util as u, runpy, sys\n"
    "folder, module, *sys.argv[1:] = sys.argv[1:]\n"
    "spec = u.spec_from_file_location('minillm', folder + '/__init__.py', submodule_search_locations=[folder])\n"
    "sys.modules['minillm'] = package = u.module_from_spec(spec)\n"
    "spec.loader.exec_module(package)\n"
    "runpy.run_module(module, run_name='__main__')"
)


def add_environments(paths):  # [path]
    """Look in these environments too, before those that MINILLM_PEERS names already."""
    os.environ[VARIABLE] = os.pathsep.join([*paths, *filter(None, [os.environ.get(VARIABLE)])])


def pythons():  # -> [python], ours last
    """List the pythons where peers may be. MiniLLMError for a path that is neither a python nor an environment's folder."""
    found = []
    for text in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        path = Path(text).expanduser()
        inside = [path / "bin" / "python", path / "Scripts" / "python.exe"] if path.is_dir() else [path]
        if not (python := next((p for p in inside if p.is_file()), None)):
            raise MiniLLMError(f"peers: expected a python, or the folder of a virtual environment, found {text!r}.")
        found.append(str(python))
    return [*found, sys.executable]


def python_with(needs):  # (package, …) -> python, or None
    """Find the first environment that has all these packages; ours for an engine of our own, which needs none of them."""
    if not needs:
        return sys.executable
    return next((python for python in pythons() if packages(python, tuple(needs)) == set(needs)), None)


def packages(python, names):  # -> {those names that can be imported there}
    if python == sys.executable:
        return {name for name in names if importlib.util.find_spec(name)}
    return asked(python, names)


@functools.cache
def asked(python, names):
    """Ask another Python what it can import."""
    try:
        answer = subprocess.run([python, "-c", FIND, *names], capture_output=True, text=True, timeout=60)
        version, found = json.loads(answer.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        raise MiniLLMError(f"peers: {python} does not run as a Python.") from None
    if tuple(version) < OLDEST:
        oldest, found = (".".join(map(str, v)) for v in (OLDEST, version))
        raise MiniLLMError(f"peers: {python} must be Python {oldest} or newer, found {found}.")
    return set(found)


def command(python, module, *arguments):  # -> [str], for subprocess
    """Run a module of ours in another environment, or in this one."""
    if python == sys.executable:
        return [python, "-m", module, *arguments]
    return [python, "-c", RUN, str(Path(__file__).parents[2]), module, *arguments]
