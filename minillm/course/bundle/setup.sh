#!/usr/bin/env bash
# Gradescope runs this once, when the image is built. Only what the tests import is installed; minillm itself stays in the source.
set -euo pipefail
cd "$(dirname "$0")"
venv="${AUTOGRADER_VENV:-/opt/minillm-venv}"

make_venv() {  # with the first Python that is new enough; the system's own comes first, because user nobody can read it
    local python
    for python in /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do
        if "$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
            "$python" -m venv "$venv"
            return
        fi
    done
    return 1
}

if ! make_venv; then
    apt-get update
    for version in 3.13 3.12 3.11; do
        if apt-get install -y "python$version-venv"; then break; fi
    done
    make_venv || { echo "minillm: the autograder needs Python 3.11 or newer with venv; none was found." >&2; exit 1; }
fi
"$venv/bin/pip" install --quiet --disable-pip-version-check -r requirements.txt
"$venv/bin/python" -c "import hypothesis, numba, pytest"   # what is missing shows now, not when the first student waits
