"""The model that a notebook runs on: the real one where it is on this machine, a random one of the same kind otherwise.

    llm = model_at_hand()      # prints which one, since a picture means little without its model

MINILLM_NOTEBOOK_MODEL overrides the choice: "random", or whatever `LLM` takes. Tests say "random" to be quick.
"""

import os

from minillm.llm import LLM
from minillm.model import zoo
from minillm.model.random_model import random_model

WANTED = "smollm2-135m"


def model_at_hand(backend=None, say=print):  # -> LLM
    """SmolLM2-135M if it has been downloaded, else random weights; says which, and how to get the better one."""
    name = os.environ.get("MINILLM_NOTEBOOK_MODEL") or WANTED
    try:
        llm = LLM(random_model(backend=backend) if name == "random" else name, backend)
        hint = "what it writes is noise, what it costs is real." if name == "random" else ""
    except zoo.ModelNotDownloaded:
        llm = LLM(random_model(backend=backend))
        hint = f"what it writes is noise, what it costs is real. For the real one: minillm download {name}"
    c = llm.config
    say(f"{c.name}: {c.parameters() / 1e6:,.1f} million parameters, {c.n_layers} layers{'; ' if hint else ''}{hint}")
    return llm
