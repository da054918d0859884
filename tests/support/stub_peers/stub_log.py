"""Peers that compute nothing and write down what they were asked, a line of JSON each, to the file $STUB_LOG."""

import json
import os
import sys

HEAVY = ("numba", "regex", "jinja2", "tqdm", "matplotlib", "uvicorn", "h11")  # what a peer's own environment would not have


def note(what, **values):
    heavy = [name for name in HEAVY if name in sys.modules]
    with open(os.environ["STUB_LOG"], "a") as file:
        file.write(json.dumps({"what": what, "heavy": heavy, **values}) + "\n")


def following(tokens):
    """The next token of a text, whoever is asked."""
    return (3 * sum(tokens) + len(tokens)) % 50
