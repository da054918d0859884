"""What a model of some shape takes, and what of it fits on which card: `minillm inspect NAME`.

Nothing is loaded and nothing downloaded: a dozen numbers (a preset, or the head of a file) and the formulas of ModelConfig
say it all. A tenth of a card is left to activations and the runtime, as servers do.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from minillm.errors import ModelError
from minillm.terminal import table

if TYPE_CHECKING:
    from minillm.model.config import ModelConfig

CARDS = {24: "RTX 4090, L4", 48: "L40S, A6000", 80: "A100, H100", 141: "H200", 192: "B200, MI300X"}  # GB: cards of today (2026)
WIDTHS = {"16-bit": 16, "8-bit": 8, "4-bit (Q4_0)": 4.5}  # bits a weight, with the scales of its blocks
USABLE = 0.9  # of a card's memory


def config_of(name: str) -> "ModelConfig":  # of a preset, or of a model that is here
    """Find the shape behind a name; ModelError with the nearest name where there is none."""
    from minillm.model import zoo
    from minillm.model.load import read_config
    from minillm.model.presets import PRESETS, preset

    if name in PRESETS:
        return preset(name)
    try:
        return read_config(zoo.resolve(name))
    except ModelError as unknown:
        if "/" in name or "." in name.removeprefix(".").rpartition(".")[2] or name.endswith(".gguf"):
            raise
        try:
            return preset(name)
        except ModelError as error:
            raise error from unknown


def sizes(name: str, config: "ModelConfig", context: int | None = None) -> dict:  # fit for JSON
    """Compute parameters, bytes of the weights by width, of the cache by token and for a context; and what fits on the cards."""
    from minillm.costs.memory import KV_NAMES, kv_token_bytes, kv_tokens

    context = config.context_length if context is None else context
    if context < 1:
        raise ModelError(f"--context must be at least 1 token, found {context:,}.")
    token = config.kv_bytes_per_token()
    return {
        "name": name,
        "parameters": config.parameters(),
        "layers": config.n_layers,
        "d_model": config.d_model,
        "query_heads": config.n_heads,
        "kv_heads": config.n_kv_heads,
        "d_head": config.d_head,
        "context_length": config.context_length,
        "weight_bytes": {width: config.weight_bytes(bits) for width, bits in WIDTHS.items()},
        "kv_bytes_per_token": token,
        "kv_bytes_per_token_as": {name: kv_token_bytes(config, name) for name in KV_NAMES},
        "context": context,
        "kv_bytes": context * token,
        "usable": USABLE,
        "kv_tokens": {
            f"{gb} GB": {width: int(kv_tokens(config, gb * 1e9, USABLE, bits)) for width, bits in WIDTHS.items()} for gb in CARDS
        },
    }


def report(facts: dict) -> Iterator[str]:  # lines
    """Format the same for people, in 80 columns."""
    context, weights = facts["context"], facts["weight_bytes"]
    yield f"{facts['name']}: {facts['parameters']:,} parameters"
    trained = "" if context <= facts["context_length"] else f" (the model knows {facts['context_length']:,})"
    heads = f"{facts['query_heads']} query heads and {facts['kv_heads']} KV heads of {facts['d_head']}"
    yield f"{facts['layers']} layers of {facts['d_model']:,}, {heads}, context {facts['context_length']:,}"
    yield "\n" + table(["weights", *weights], [["", *map(size, weights.values())]])
    token = f"{facts['kv_bytes_per_token'] / 1024:,.4g} KiB a token"
    yield f"\nKV cache, 16-bit: {token}, {size(facts['kv_bytes'])} for {context:,} tokens{trained}"
    kinds = {name: f"{nbytes / 1024:,.4g}" for name, nbytes in facts["kv_bytes_per_token_as"].items()}
    yield "\n" + table(["KiB a token", *kinds], [["", *kinds.values()]])
    yield f"\ntokens of KV cache beside the weights = so many contexts of {context:,}"
    rows = []
    for gb, (card, fits) in zip(CARDS, facts["kv_tokens"].items(), strict=True):
        usable = facts["usable"] * gb * 1e9
        cells = [cell(tokens, context, weights[width] <= usable) for width, tokens in fits.items()]
        rows.append([card, CARDS[gb], *cells])
    yield table(["", "", *weights], rows, "><")
    yield f"({facts['usable']:.0%} of a card; the rest is for activations and the runtime)"


def cell(tokens: float, context: int, there: bool) -> str:
    return f"{short(tokens)} = {short(tokens / context)}" if there else "does not fit"


def short(number: float) -> str:
    """Format a number: 4,413 · 98.6k · 14.1M"""
    for unit, scale, least in (("M", 1e6, 1e6), ("k", 1e3, 1e4)):
        if number >= least:
            return f"{number / scale:,.1f}{unit}"
    return f"{number:,.0f}" if number >= 100 else f"{number:,.1f}"


def size(nbytes: float) -> str:
    """Format bytes as cards and disks count them."""
    return f"{nbytes / 1e9:,.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:,.1f} MB"
