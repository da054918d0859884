"""What `minillm loadtest` shows: a table to read, a picture, and files for other programs.

    loadtest.json    every metric, with intervals, and what was asked        requests.csv    a line for each request
    loadtest.png     TTFT over time, and how tokens followed                 trace.json      for ui.perfetto.dev

Nothing is half-written: files appear by rename.
"""

import csv
import io
import json
from pathlib import Path
from typing import Any

from minillm import plots, terminal
from minillm.files import replacing
from minillm.load.generator import LoadTest, rows
from minillm.metrics import perfetto, summary

FILES = ("loadtest.json", "requests.csv", "loadtest.png", "trace.json")
NAMES = {"ttft_s": "TTFT", "tpot_s": "TPOT", "itl_s": "ITL", "e2e_s": "E2E"}


def table(result: dict[str, Any]) -> str:
    """Make the report to read: results, failures, and whether the generator can be trusted."""
    lines = [
        f"{result['server']}, model {result['model']}: {result['workload']}",
        f"{result['requests']:,} of {result['planned']:,} requests sent, {result['finished']:,} finished in "
        f"{result['duration_s']:.2f} s" + (" (stopped by Control-C)" if result["stopped"] else ""),
    ]
    if result["errors"]:
        lines.append("without an answer: " + ", ".join(f"{n:,} {kind}" for kind, n in result["errors"].items()))
    columns, rows = ("mean", "p50", "p90", "p95", "p99"), []
    for key, name in NAMES.items():
        if not result[key]["count"]:
            rows.append([name, "", "", "", "", "", "none was seen"])
            continue
        rows.append([name, *(f"{1e3 * result[key][c]:,.1f}" for c in columns), f"of {result[key]['count']:,}"])
        if result[key]["mean_ci"]:
            ends = zip(*(result[key][f"{c}_ci"] for c in columns), strict=True)
            rows += [[sign, *(f"{1e3 * end:,.1f}" for end in row)] for sign, row in zip("≥≤", ends, strict=True)]
    head = ["", *columns, "ms, of finished requests; below, 95% intervals"]
    lines += ["", terminal.table(head, rows, "<>>>>><")]
    lines += ["", "throughput: " + throughput(result)]
    if result["slo_s"]:
        asked = ", ".join(f"{name} ≤ {limit:g} s" for name, limit in result["slo_s"].items())
        share = "none ended" if result["attainment"] is None else f"{result['attainment']:.1%} of requests; an error is a miss"
        lines.append(f"goodput: {result['goodput_per_s'] or 0:.3g} requests/s met {asked} ({share})")
    lines.append(generator(result))
    lines.append("TPOT = (E2E - TTFT) / (tokens - 1), ITL = each gap between chunks as vLLM has it. TTFT includes connecting.")
    return "\n".join(lines)


def throughput(result: dict[str, Any]) -> str:
    if not result["requests_per_s"]:
        return "no request has finished"
    tokens = f"{result['prompt_tokens_per_s']:,.1f} tokens/s in, {result['new_tokens_per_s']:,.1f} tokens/s out"
    return f"{result['requests_per_s']:.3g} requests/s, {tokens}"


def generator(result: dict[str, Any]) -> str:
    """Say whether the server or the load generator was the limit."""
    late, cpu = result["generator_late_s"], result["generator_cpu_cores"]
    said = f"the generator used {cpu:.0%} of a core" if cpu is not None else "the generator did nothing"
    if late["count"]:
        said += (
            f" and sent {1e3 * late['p50']:.1f} ms late at p50, {1e3 * late['p99']:.1f} at p99, {1e3 * late['max']:.1f} at most"
        )
    return said + warning(result)


def warning(result: dict[str, Any]) -> str:
    late, cpu = result["generator_late_s"], result["generator_cpu_cores"] or 0
    gap = 1 / result["offered_per_s"] if result["offered_per_s"] else float("inf")
    if cpu > 0.8 or (late["count"] and late["p99"] > max(0.01, gap)):
        return ": TOO MUCH, it was not only the server that was measured"
    return ""


def write(result: dict[str, Any], test: LoadTest, folder: str | Path) -> list[Path]:
    """Write all four files. Errors: MiniLLMError where the folder cannot be written."""
    text = io.StringIO(newline="")
    lines = rows(test)
    if lines:
        sheet = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
        sheet.writeheader()
        sheet.writerows(lines)
    picture(result, test, png := io.BytesIO())
    told, traced = json.dumps(result, indent=1, ensure_ascii=False), json.dumps(perfetto.trace(test.log))
    files = dict(zip(FILES, (told.encode(), text.getvalue().encode(), png.getvalue(), traced.encode()), strict=True))
    for name, data in files.items():
        with replacing(Path(folder) / name) as file:
            file.write(data)
    return [Path(folder) / name for name in files]


def picture(result: dict[str, Any], test: LoadTest, file: Any) -> None:
    """Plot TTFT over the time of sending, with failures; and the distribution of the gaps between chunks."""
    fig, (waits, paces) = plots.figure(2)
    seen = [(log_time(test, m.request), m.ttft) for m in summary.all_measures(test.log) if m.ttft is not None]
    lost = [log_time(test, number) for number, outcome in test.outcomes.items() if outcome.error]
    if seen:
        waits.scatter(*zip(*((t, 1e3 * s) for t, s in seen), strict=True), s=14, color=plots.COLOURS[0], label="finished")
    if lost:
        waits.scatter(lost, [0] * len(lost), s=24, color=plots.COLOURS[1], marker="x", label="no answer")
    if limit := result["slo_s"].get("ttft"):
        plots.ceiling(waits, 1e3 * limit, f"objective: {limit:g} s")
    found = result["ttft_s"]
    speed = f" at {result['requests_per_s']:.3g} requests/s" if result["requests_per_s"] else ""
    title = (
        f"Half wait {1e3 * found['p50']:,.0f} ms, 1% over {1e3 * found['p99']:,.0f} ms{speed}"
        if seen
        else "No request was answered"
    )
    plots.label(waits, title, "sent (s after the start)", "TTFT (ms)")
    waits.set_ylim(bottom=0 if not lost else None)
    if seen or lost:
        waits.legend(frameon=False, loc="upper right")
    pairs = (("TPOT, one a request", summary.tpots(summary.all_measures(test.log))), ("ITL, every gap", all_gaps(test)))
    for i, (name, values) in enumerate((name, sorted(values)) for name, values in pairs):
        if values:
            share = [(k + 1) / len(values) for k in range(len(values))]
            style = {"color": plots.COLOURS[i], "linestyle": plots.LINES[i], "linewidth": 1.6}
            paces.step([1e3 * v for v in values], share, where="post", label=name, **style)
    tokens = result["tpot_s"]
    title = f"Then a token every {1e3 * tokens['p50']:,.1f} ms" if tokens["count"] else "No gap between tokens was seen"
    plots.label(paces, title, "time (ms)", "share at or below")
    if tokens["count"]:
        paces.legend(frameon=False, loc="lower right")
    plots.save(fig, file)


def all_gaps(test: LoadTest) -> list[float]:
    return [gap for m in summary.all_measures(test.log) for gap in m.gaps]


def log_time(test: LoadTest, number: int) -> float:
    return test.log.events_of(number)[0].time - test.start
