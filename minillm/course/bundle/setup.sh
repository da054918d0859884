#!/usr/bin/env bash
# Gradescope runs this once, when the image is built. Only what the tests import is installed; minillm itself stays in the source.
set -euo pipefail
cd "$(dirname "$0")"
python3 -m venv "${AUTOGRADER_VENV:-/opt/minillm-venv}"
requirements=$(mktemp)
"${AUTOGRADER_VENV:-/opt/minillm-venv}/bin/python" - > "$requirements" <<'PYTHON'
import tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
print("\n".join(project["dependencies"] + project["optional-dependencies"]["test"]))
PYTHON
"${AUTOGRADER_VENV:-/opt/minillm-venv}/bin/pip" install -r "$requirements"
