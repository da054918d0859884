"""A comparison as a table to read."""


def table(result):  # -> text
    """Engines as rows, speeds as columns, the ceiling as the last row; ratios are ours to theirs."""
    r = result
    head = f"{r['model']}: {r['prompt_tokens']} prompt tokens, {r['new_tokens']} new, batch {r['batch']}, {r['threads']} threads"
    lines = [head, f"{'':16}{'prefill':>12}{'':8}{'decode':>12}{'':8}{'load':>9}{'peak memory':>14}"]
    lines.append(f"{'':16}{'tokens/s':>12}{'ours/it':>8}{'tokens/s':>12}{'ours/it':>8}{'s':>9}{'MB':>14}")
    for name, f in r["engines"].items():
        ratio = r["ratios"].get(f"to {name}")
        a, b = (f"{ratio[k]:.2f}" if ratio else "" for k in ("prefill_tokens_per_s", "decode_tokens_per_s"))
        lines.append(
            f"{name:16}{f['prefill_tokens_per_s']:12,.0f}{a:>8}{f['decode_tokens_per_s']:12,.1f}{b:>8}"
            f"{f['load_s']:9.2f}{f['peak_rss_bytes'] / 1e6:14,.0f}"
        )
    c, m = r["ceiling"], r["machine"]
    lines.append(f"{'ceiling':16}{c['prefill_tokens_per_s']:12,.0f}{'':8}{c['decode_tokens_per_s']:12,.1f}")
    flops, bandwidth = f"{c['flops_per_s'] / 1e9:,.0f} GFLOP/s", f"{m['read_bytes_per_s'] / 1e9:,.1f} GB/s"
    how = "float32 products" if c["flops_per_s"] == m["flops_per_s"] else "the kernels' own instruction"
    lines.append(
        f"The ceiling is {flops} of {how} over the prompt's FLOPs, and {bandwidth} over the bytes of a step at "
        f"{c['bits_per_weight']:.4g} bits a weight, both measured in this run."
    )
    return "\n".join(lines)
