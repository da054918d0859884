"""The figures of lesson 07's table, kept in quantization.json: what `minillm bench quantization --json` says of each model.

    python data/results/quantization.py FILE [FILE ...]      take in the objects that the command printed

A run may be cut by bits (--bits 4, then --bits 3 …), as pairs are made at the same bits only.
"""

from pathlib import Path

from minillm.bench.kept import take_in

SAME = ("parameters", "group", "documents", "context", "scored_tokens")
LISTS = {"rows": ("method", "bits")}

if __name__ == "__main__":
    take_in(Path(__file__).with_suffix(".json"), __doc__.splitlines()[0], SAME, LISTS)
