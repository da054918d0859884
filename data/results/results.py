"""The figures on the front page: measured by the tour, kept in results.json, written into README.md between two marks.

    python data/results/results.py [--model M]     measure, draw, write
    python data/results/results.py --page          write the table anew from results.json
"""

import argparse
import json
import sys
from pathlib import Path

from minillm.bench.machine import BUSY_BELOW
from minillm.cli import main as minillm
from minillm.files import replacing

HERE = Path(__file__).parent
README = HERE.parents[1] / "README.md"
BEGIN, END = "<!-- results: python data/results/results.py -->\n", "<!-- end of results -->\n"
KEPT = ("name", "lesson", "idea", "ttft_s", "decode_tokens_per_s", "share_of_ceiling", "speedup", "same_tokens")


def measure(model, busy):  # -> dict
    """What results.json holds. SystemExit where the machine is busy, unless that is wanted."""
    if minillm(["tour", "--model", model, "--out", str(HERE)]):
        sys.exit("the tour failed")
    result = json.loads((HERE / "tour.json").read_text())
    (HERE / "tour.json").unlink()  # 48 times a rung are for the picture
    if result["cpu_share"] < BUSY_BELOW and not busy:
        sys.exit(f"a process got {result['cpu_share']:.0%} of this machine: nothing written; try again, or --busy")
    about = {name: result[name] for name in ("model", "parameters", "cpu_share")}
    machine = {name: result["machine"][name] for name in ("cpu", "cores", "read_bytes_per_s")}
    return about | {"machine": machine, "rungs": [{name: rung[name] for name in KEPT} for rung in result["rungs"]]}


def page(result):  # -> the text between the marks
    """The table, and what it was measured on."""
    lines = ["| | lesson | TTFT | decode | of the ceiling | whole answer |", "|---|---|---|---|---|---|"]
    for r in result["rungs"]:
        lesson = f"[{r['lesson'][:2]}](lessons/{r['lesson']}.md)"
        figures = f"{r['ttft_s'] * 1e3:,.0f} ms | {r['decode_tokens_per_s']:,.1f} tokens/s | {r['share_of_ceiling']:.0%}"
        lines.append(f"| {r['name']}: {r['idea']} | {lesson} | {figures} | {r['speedup']:.1f} × |")
    m, share = result["machine"], result["cpu_share"]
    busy = f" The machine was busy: a process got {share:.0%} of its cores; the figures are too low." * (share < BUSY_BELOW)
    cores = f"{m['cores']} cores ({m['cpu']}, {m['read_bytes_per_s'] / 1e9:,.1f} GB/s)"
    model = f"`{result['model']}`, {result['parameters'] / 1e6:,.1f} million parameters"
    return "\n".join([*lines, "", f"{model}, on {cores}; every rung says the same tokens.{busy}", ""])


def with_page(readme, text):  # -> README with the text between its marks
    before, mark, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        sys.exit(f"{README} has no {BEGIN.strip()} … {END.strip()}")
    return before + BEGIN + text + END + after


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny", metavar="M", help="as of `minillm tour` (default: %(default)s)")
    parser.add_argument("--busy", action="store_true", help="write even what a busy machine measured; the page says so")
    parser.add_argument("--page", action="store_true", help="measure nothing; write the table anew")
    args = parser.parse_args(argv)
    file = HERE / "results.json"
    result = json.loads(file.read_text()) if args.page else measure(args.model, args.busy)
    with replacing(file) as out:
        out.write((json.dumps(result, indent=1) + "\n").encode())
    with replacing(README) as out:
        out.write(with_page(README.read_text(encoding="utf-8"), page(result)).encode())


if __name__ == "__main__":
    main()
