"""The model that a notebook runs on: SmolLM2-135M where it is on this machine, else the small one that comes with the package.

    llm = model_at_hand()      # prints which one, since a picture means little without its model; warns where others run

A busy machine is told on standard error: there titles that are computed from measurements may contradict the lesson, and the
builder takes no notebook with such a line in it.

MINILLM_NOTEBOOK_MODEL overrides the choice: "random", or whatever `LLM` takes. Tests say "random" to be quick.
"""

import os
import sys

from minillm.bench.machine import busy, cpu_share
from minillm.llm import LLM
from minillm.model import zoo
from minillm.model.random_model import random_model

WANTED, FALLBACK = "smollm2-135m", "tiny"


def model_at_hand(backend=None, say=print):  # -> LLM
    """SmolLM2-135M if it has been downloaded, else `tiny`; says which, and how to get the better one."""
    name = os.environ.get("MINILLM_NOTEBOOK_MODEL") or WANTED
    try:
        llm = LLM(random_model(backend=backend) if name == "random" else name, backend)
        hint = "what it writes is noise, what it costs is real." if name == "random" else ""
    except zoo.ModelNotDownloaded:
        llm = LLM(FALLBACK, backend)
        hint = f"for a larger one: minillm download {name}"
    c = llm.config
    say(f"{c.name}: {c.parameters() / 1e6:,.1f} million parameters, {c.n_layers} layers{'; ' if hint else ''}{hint}")
    if line := busy(cpu_share()):
        print(f"{line}. Run the notebook again when it is quiet.", file=sys.stderr)
    return llm
