"""The scripts of data/, which are no part of the package, as modules."""

import importlib.util
import sys
from pathlib import Path

DATA = Path(__file__).parents[2] / "data"


def script(path):  # below data/, "models/card.py" -> module
    spec = importlib.util.spec_from_file_location(f"script_{path.replace('/', '_').removesuffix('.py')}", DATA / path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look for their module there
    spec.loader.exec_module(module)
    return module
