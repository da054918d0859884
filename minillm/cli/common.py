"""What several commands share: the options that choose a model, the offer to download it, the JSON line."""

import json
import sys
from argparse import Namespace, _ActionsContainer
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

from minillm.cli.arguments import Parser
from minillm.costs.memory import KV_NAMES

if TYPE_CHECKING:
    from pathlib import Path

    from minillm.llm import LLM
    from minillm.model.params import SamplingParams

DEFAULT_MODEL = "tiny"


def add_model_options(parser: Parser, default: str = DEFAULT_MODEL, backend: bool = True) -> None:
    parser.add_argument(
        "--model", default=default, metavar="M", help="name, .gguf file, folder, or hf:ORG/REPO/FILE (default: %(default)s)"
    )
    if backend:
        parser.add_argument("--backend", metavar="B", default="auto", help="numpy, numba, or auto (default: %(default)s)")
    add_threads_option(parser)


def add_threads_option(parser: Parser) -> None:
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the numeric libraries (default: all cores)")


def add_lora_option(parser: Parser) -> None:
    parser.add_argument("--lora", metavar="PATH", help="with this adapter: a PEFT folder, or a GGUF file")


def chosen_adapter(args: Namespace) -> str | None:
    """Read --lora, under the name that a request gives it; call it before load()."""
    args.adapters = {"lora": args.lora} if args.lora else None
    return "lora" if args.lora else None


def add_sampling_options(parser: Parser, max_tokens: int = 128, models_own: bool = False) -> None:
    """Add sampling options. models_own: values not given are left to the model's recommendation (model/defaults.py)."""

    def knob(name: str, kind: type, off: float, metavar: str, says: str) -> None:
        default, what = (None, "default: what suits the model") if models_own else (off, "the default")
        parser.add_argument(name, type=kind, default=default, metavar=metavar, help=f"{says} ({what})")

    parser.add_argument("--max-tokens", type=int, default=max_tokens, metavar="N", help="default: %(default)s")
    knob("--temperature", float, 0.0, "T", "0 is greedy")
    knob("--top-k", int, 0, "K", "0 is off")
    knob("--top-p", float, 1.0, "P", "1 is off")
    knob("--min-p", float, 0.0, "P", "0 is off")
    knob("--repetition-penalty", float, 1.0, "R", "1 is off")
    parser.add_argument("--seed", type=int, metavar="N", help="same seed, same text (default: a fresh one)")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text; may be repeated")
    parser.add_argument("--truncate", choices=["left"], help="drop the beginning of a prompt that is too long")


def sampling_given(args: Namespace) -> dict[str, Any]:
    """Read the sampling options; a parameter that was left to the model is not among them."""
    names = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "stop")
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def sampling_params(args: Namespace, **more: Any) -> "SamplingParams":
    from minillm.model.params import SamplingParams

    return SamplingParams(**sampling_given(args), **more)


def model_path(args: Namespace) -> "Path":
    """Find the model's path."""
    from minillm.model import zoo

    return or_download(args.model, zoo.resolve)


def or_download(model: str, use: Callable[[Any], Any]) -> Any:  # what use(name or path) gives
    """Call use(model); for a known model that is not on the disk, offer to fetch it first, if a person is there to answer."""
    from minillm.model import zoo

    try:
        return use(model)
    except zoo.ModelNotDownloaded:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise
        print(f"{model} is not on this machine yet. Download it now? [Y/n] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("", "y", "yes"):
            raise
    return use(zoo.download(model))


def load(args: Namespace) -> "LLM":
    """Load the model that the options name."""
    from minillm.llm import LLM

    kv = (args.kv or "auto") if hasattr(args, "kv") else None
    rest = getattr(args, "adapters", None), getattr(args, "activations", None)
    return or_download(args.model, lambda model: LLM(model, args.backend, kv, *rest))


KV_HELP = "keys and values: %(choices)s (default: float16, as other servers keep them, where the backend is numba; else float32)"


def add_kv_option(parser: _ActionsContainer, default: str | None = None) -> None:
    says = KV_HELP if default is None else "keys and values: %(choices)s (default: %(default)s)"
    parser.add_argument("--kv", choices=KV_NAMES, default=default, metavar="KIND", help=says)


def add_activations_option(parser: _ActionsContainer) -> None:
    says = "what weights are multiplied with: exact, or int8, rounded to 8 bits: faster on numba, inexact (default: %(default)s)"
    parser.add_argument("--activations", choices=["exact", "int8"], default="exact", help=says)


def beside_json(args: Namespace) -> TextIO:  # where what a person reads goes: with --json standard output is for the object alone
    return sys.stderr if args.json else sys.stdout


def print_json(values: dict) -> None:
    """Print one JSON object, which is all that stands on standard output."""
    print(json.dumps(values, ensure_ascii=False), flush=True)


def share_now() -> float:  # 0 … 1
    """Measure the share of the cores that a process gets now; give it to tell_share once all is measured."""
    from minillm.bench.machine import cpu_share

    return cpu_share()


def tell_share(before: float) -> float:  # the lower of the shares before and after
    """Warn on standard error that a busy machine spoiled the measurement."""
    from minillm.bench.machine import busy

    share = min(before, share_now())
    if line := busy(share):
        print(f"minillm: {line}.", file=sys.stderr)
    return round(share, 3)


def computing(llm: "LLM") -> str:  # words
    """Say what computes: the backend, and what is inexact about it."""
    ops = llm.transformer.ops
    return ops.name if ops.activations == "exact" else f"{ops.name} with {ops.activations} activations"


def pace(metrics: dict, backend: str) -> str:  # one line
    """Describe the metrics of a request in words, and what computed it."""
    parts = [f"{metrics['prompt_tokens']} tokens in, {metrics['new_tokens']} out", backend]
    if metrics["ttft_s"] is not None:
        parts.append(f"TTFT {metrics['ttft_s'] * 1e3:,.0f} ms")
    if metrics["tpot_s"] is not None:
        parts.append(f"TPOT {metrics['tpot_s'] * 1e3:,.1f} ms ({metrics['decode_tokens_per_s']:,.1f} tokens/s)")
    return " · ".join(parts)
