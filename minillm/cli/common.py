"""What several commands share: the options that choose a model, the offer to download it, the JSON line."""

import json
import sys

DEFAULT_MODEL = "tiny"


def add_model_options(parser):
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, metavar="M", help="name, .gguf file, folder, or hf:ORG/REPO/FILE (default: %(default)s)"
    )
    parser.add_argument("--backend", metavar="B", default="auto", help="numpy, numba, or auto (default: %(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the numeric libraries (default: all cores)")


def add_lora_option(parser):
    parser.add_argument("--lora", metavar="PATH", help="with this adapter: a PEFT folder, or a GGUF file")


def chosen_adapter(args):  # -> name or None
    """What --lora chose, under the name that a request gives it; to be called before load()."""
    args.adapters = {"lora": args.lora} if args.lora else None
    return "lora" if args.lora else None


def add_sampling_options(parser, max_tokens=128):
    parser.add_argument("--max-tokens", type=int, default=max_tokens, metavar="N", help="default: %(default)s")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 is greedy (the default)")
    parser.add_argument("--top-k", type=int, default=0, metavar="K", help="0 is off (the default)")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="1 is off (the default)")
    parser.add_argument("--min-p", type=float, default=0.0, metavar="P", help="0 is off (the default)")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, metavar="R", help="1 is off (the default)")
    parser.add_argument("--seed", type=int, metavar="N", help="same seed, same text (default: a fresh one)")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text; may be repeated")
    parser.add_argument("--truncate", choices=["left"], help="drop the beginning of a prompt that is too long")


def sampling_params(args, **more):
    from minillm.model.sampling import SamplingParams

    names = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "stop")
    return SamplingParams(**{name: getattr(args, name) for name in names}, **more)


def model_path(args):  # -> path
    """Where the model is."""
    from minillm.model import zoo

    return or_download(args.model, zoo.resolve)


def or_download(model, use):  # name or path, name or path -> anything
    """use(model); if we know the model but do not have it, and somebody is there to answer, offer to fetch it first."""
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


def load(args):  # -> LLM
    """The model that the options name."""
    from minillm.llm import LLM

    kv = (args.kv or "auto") if hasattr(args, "kv") else "float32"
    return or_download(args.model, lambda model: LLM(model, args.backend, kv, getattr(args, "adapters", None)))


KV_HELP = "keys and values (default: float16, as other servers keep them, where the backend is numba; else float32)"


def add_kv_option(parser):
    parser.add_argument("--kv", choices=["float32", "float16"], help=KV_HELP)


def print_json(values):
    """One object on the last line of standard output."""
    print(json.dumps(values, ensure_ascii=False), flush=True)


def pace(metrics):  # -> one line
    """Metrics of a request in words."""
    parts = [f"{metrics['prompt_tokens']} tokens in, {metrics['new_tokens']} out"]
    if metrics["ttft_s"] is not None:
        parts.append(f"TTFT {metrics['ttft_s'] * 1e3:,.0f} ms")
    if metrics["tpot_s"] is not None:
        parts.append(f"TPOT {metrics['tpot_s'] * 1e3:,.1f} ms ({metrics['decode_tokens_per_s']:,.1f} tokens/s)")
    return " · ".join(parts)
