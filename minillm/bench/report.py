"""A comparison as a table to read."""

from typing import Any

from minillm import terminal
from minillm.bench import agreement


def table(result: dict[str, Any]) -> str:
    """Format engines as rows, speeds as columns, the ceiling as the last row; ratios are ours to theirs."""
    r = result
    head = ["", "prefill tokens/s", "ours/it", "decode tokens/s", "ours/it", "load s", "peak MB"]
    rows = []
    for name, f in r["engines"].items():
        ratio = r["ratios"].get(f"to {name}")
        a, b = (f"{ratio[k]:.2f}" if ratio else "" for k in ("prefill_tokens_per_s", "decode_tokens_per_s"))
        speeds = f"{f['prefill_tokens_per_s']:,.0f}", a, f"{f['decode_tokens_per_s']:,.1f}", b
        rows.append([name, *speeds, f"{f['load_s']:.2f}", f"{f['peak_rss_bytes'] / 1e6:,.0f}"])
    c, m = r["ceiling"], r["machine"]
    rows.append(["ceiling", f"{c['prefill_tokens_per_s']:,.0f}", "", f"{c['decode_tokens_per_s']:,.1f}"])
    flops, bandwidth = f"{c['flops_per_s'] / 1e9:,.0f} GFLOP/s", f"{m['read_bytes_per_s'] / 1e9:,.1f} GB/s"
    how = "float32 products" if c["flops_per_s"] == m["flops_per_s"] else "the kernels' own instruction"
    about = f"{r['model']}: {r['prompt_tokens']} prompt tokens, {r['new_tokens']} new, batch {r['batch']}, {r['threads']} threads"
    about += "" if r["activations"] == "exact" else f", {r['activations']} activations"
    said = (
        f"The ceiling is {flops} of {how} over the prompt's FLOPs, and {bandwidth} over the bytes of a step at "
        f"{c['bits_per_weight']:.4g} bits a weight, both measured in this run."
    )
    return "\n".join([about, terminal.table(head, rows), said, *agreement.lines(r)])
