"""`minillm perplexity --model M --text FILE`: how well a model predicts a text, and with --against how far it moved from another.

The text is read in windows of --context tokens, each --stride further on; every token is scored once (metrics/perplexity.py).
Compare figures of one text, one context and one stride only. Without --text it is our stories that no model was trained on.
"""

from argparse import Namespace
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from minillm.cli.arguments import Parser
from minillm.cli.common import add_activations_option, add_model_options, beside_json, computing, load, print_json

if TYPE_CHECKING:
    from minillm.llm import LLM
    from minillm.metrics.perplexity import Scores

HELP = "how well a model predicts a text; with --against, KL divergence to the original and the share of equal first choices"


def configure(parser: Parser) -> None:
    add_model_options(parser)
    parser.add_argument("--text", metavar="FILE", help="UTF-8; .gz and .xz are unpacked (default: 200 held-out stories of ours)")
    parser.add_argument("--context", type=int, metavar="N", help="tokens of a window (default: 512, or what the model can)")
    parser.add_argument("--stride", type=int, metavar="N", help="tokens from window to window (default: half the context)")
    parser.add_argument("--against", metavar="M", help="the original: compare with what this model predicts")
    add_activations_option(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the summary")


def run(args: Namespace) -> int:
    from minillm.bench.quality import CONTEXT, check_vocabularies, score, text_ids
    from minillm.calibration.texts import story_texts
    from minillm.errors import MiniLLMError
    from minillm.metrics.perplexity import windows
    from minillm.terminal import bar
    from minillm.training.data import read_corpus

    text = read_corpus(args.text) if args.text else story_texts().held_out
    llm = load(args)
    most = llm.config.context_length
    original = load(Namespace(**vars(args) | {"model": args.against, "activations": "exact"})) if args.against else None
    if original:
        check_vocabularies(llm, original, text)
        most = min(most, original.config.context_length)
    context = min(CONTEXT, most) if args.context is None else args.context
    if context > most:
        raise MiniLLMError(f"--context must be at most {most:,}, the model's, found {context:,}.")
    stride = max(1, context // 2) if args.stride is None else args.stride
    ids = text_ids(llm.tokenizer, text)
    with bar(sum(1 for _ in windows(len(ids), context, stride)), "windows", what="perplexity") as progress:
        (scores,) = score([llm], ids, context, stride, original, progress.update)
    report(args, llm, original, {"tokens": len(ids), "context": context, "stride": stride}, scores)
    return 0


def report(args: Namespace, llm: "LLM", original: "LLM | None", sizes: dict[str, int], scores: "Scores") -> None:
    """Print the figures in words, or as the object."""
    from minillm.metrics.perplexity import perplexity, perplexity_ratio

    value, error = perplexity(scores.losses)
    result: dict[str, Any] = {"model": llm.config.name, "backend": computing(llm)}
    result["text"] = args.text or "held-out stories"
    result |= sizes | {"scored_tokens": len(scores.losses), "perplexity": value, "perplexity_error": error}
    lines = [
        f"{result['model']}, {result['backend']}: {result['scored_tokens']:,} of {sizes['tokens']:,} tokens scored, "
        f"windows of {sizes['context']:,}, stride {sizes['stride']:,}",
        f"perplexity         {value:.4f} ± {error:.4f}",
    ]
    if original:
        q = scores.quality
        change = perplexity_ratio(scores.losses, scores.original_losses)
        more = asdict(q) | {"ratio": change[0], "ratio_error": change[1]}
        result |= {"against": original.config.name} | {key: more[key] for key in more if key != "tokens"}
        lines += [
            f"beside {args.against}: its perplexity × {change[0]:.4f} ± {change[1]:.4f}",
            f"KL divergence      {q.kl:.6f} ± {q.kl_error:.6f} nats, 99th percentile {q.kl_99:.4f}",
            f"same first choice  {q.agreement:.2%} ± {q.agreement_error:.2%}",
        ]
    print("\n".join(lines), file=beside_json(args))
    if args.json:
        print_json(result)
