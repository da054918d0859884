"""The figures of lesson 08's table, kept in activations.json: what `minillm bench activations --json` says of each model.

    python data/results/activations.py FILE [FILE ...]      take in the objects that the command printed

A run may be cut by the size of outliers (--outliers 1, then --outliers 20 …), as pairs are made at the same size only.
"""

from pathlib import Path

from minillm.bench.kept import take_in

SAME = ("parameters", "alpha", "documents", "calibration_tokens", "context", "scored_tokens")
LISTS = {"rows": ("method", "times"), "outliers": ("times",)}

if __name__ == "__main__":
    take_in(Path(__file__).with_suffix(".json"), __doc__.splitlines()[0], SAME, LISTS)
