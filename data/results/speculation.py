"""The figures of lesson 10's measurements, kept in speculation.json: what `minillm bench speculation --json` says of each model.

    python data/results/speculation.py FILE [FILE ...]      take in the objects that the command printed

A run may be cut by proposers, by batches or by workloads, as drafts and none take turns within each.
"""

from pathlib import Path

from minillm.bench.kept import take_in

SAME = ("backend", "new_tokens", "rounds")
LISTS = {"rows": ("workload", "proposer", "gamma", "batch")}

if __name__ == "__main__":
    take_in(Path(__file__).with_suffix(".json"), __doc__.splitlines()[0], SAME, LISTS)
