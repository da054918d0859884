"""The figures of lesson 08's last table, kept in precision.json: what `minillm bench precision --json` says of each model.

    python data/results/precision.py FILE [FILE ...]      take in the objects that the command printed

A run may be cut by formats (--kv float32,int8, then --kv float32,rot4 …), as each row is held against exact / float32.
"""

from pathlib import Path

from minillm.bench.kept import take_in

SAME = ("parameters", "types", "backend", "documents", "context", "scored_tokens", "prompt_tokens", "batches", "rounds")
LISTS = {"rows": ("activations", "kv")}

if __name__ == "__main__":
    take_in(Path(__file__).with_suffix(".json"), __doc__.splitlines()[0], SAME, LISTS)
