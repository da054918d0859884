"""The figures of lesson 07's table, kept in quantization.json: what `minillm bench quantization --json` says of each model.

    python data/results/quantization.py FILE [FILE ...]      take in the objects that the command printed

Nobody types a figure. A run may be cut by bits (--bits 4, then --bits 3 …), as pairs are made at the same bits only: rows of one
model are joined, if base, text and group are the same, and a row that was there is replaced.
"""

import argparse
import json
import sys
from pathlib import Path

from minillm.files import replacing

KEPT = Path(__file__).with_name("quantization.json")
SAME = ("parameters", "group", "documents", "context", "scored_tokens")
DIGITS = 6  # significant


def shortened(value):
    """Round floats to what the errors leave of them."""
    if isinstance(value, dict):
        return {key: shortened(v) for key, v in value.items()}
    if isinstance(value, list):
        return [shortened(v) for v in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def joined(kept, result):  # the models as they are kept, an object of the command -> the models with it
    """Put a run's rows to those of its model. SystemExit where it was another measurement."""
    name, result = result["model"], shortened(result)
    known = kept.get(name)
    if known is None:
        return kept | {name: result}
    if wrong := [key for key in SAME if known[key] != result[key]]:
        was, now = (which[wrong[0]] for which in (known, result))
        sys.exit(f"{name}: {wrong[0]} was {was}, now {now}: another measurement; remove the old one from {KEPT.name}")
    rows = {(r["method"], r["bits"]): r for r in known["rows"]} | {(r["method"], r["bits"]): r for r in result["rows"]}
    return kept | {name: known | {"base": known["base"] | result["base"], "rows": list(rows.values())}}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="what `minillm bench quantization --json` printed")
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for file in parser.parse_args(argv).files:
        kept = joined(kept, json.loads(file.read_text()))
    with replacing(KEPT) as out:
        out.write((json.dumps(kept, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
