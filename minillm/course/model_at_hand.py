"""The model that a notebook runs on: SmolLM2-135M where it is on this machine, else the small one that comes with the package.

    llm = model_at_hand()      # prints which one, since a picture means little without its model

MINILLM_NOTEBOOK_MODEL overrides the choice: "random", or whatever `LLM` takes. Tests say "random" to be quick.
"""

import os

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
    return llm
