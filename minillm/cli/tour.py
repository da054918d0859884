"""`minillm tour`: the main job. A story, then the ladder of optimizations with its table and picture.

The lower rungs run on NumPy, unless --backend names another, because that is the code that the lessons read; the rung of
compiled kernels loads the model once more, on Numba.
"""

import sys
from argparse import Namespace
from typing import TYPE_CHECKING, TextIO

from minillm.cli.arguments import Parser
from minillm.cli.common import (
    add_activations_option,
    add_kv_option,
    add_model_options,
    beside_json,
    model_path,
    print_json,
    share_now,
    tell_share,
)

if TYPE_CHECKING:
    from pathlib import Path

    from minillm.llm import LLM
    from minillm.model.params import SamplingParams

MEASURING = "now each optimization is measured; before the first time, kernels are compiled for this machine, about a minute"
HELP = "climb the ladder of optimizations: a story, a table, tour.png and tour.json"


def configure(parser: Parser) -> None:
    add_model_options(parser)
    add_kv_option(parser, "float32")
    add_activations_option(parser)
    parser.add_argument("--out", default=".", metavar="DIR", help="where tour.png and tour.json go (default: here)")
    parser.add_argument("--json", action="store_true", help="print one JSON object; story and table go to standard error")


def run(args: Namespace) -> int:
    path = model_path(args)
    from minillm import tour
    from minillm.llm import LLM
    from minillm.model.params import SamplingParams
    from minillm.terminal import say

    tour.writable(args.out)
    llm = LLM(path, "numpy" if args.backend == "auto" else args.backend, args.kv)
    said = beside_json(args)
    tell_story(llm, tour.BEGINNING, SamplingParams(max_tokens=tour.NEW_TOKENS), said)
    print(f"minillm: {MEASURING}", file=sys.stderr, flush=True)
    compiled, before = kernels(path, llm, args.activations), share_now()
    result = tour.climb(llm, say, *compiled)
    say("")
    result["cpu_share"] = tell_share(before)
    png, data = tour.write(result, args.out)
    print(tour.table(result), file=said)
    print(f"\nPicture: {png}   Data: {data}   Next: minillm generate \"Once upon a time\"", file=said)
    if args.json:
        print_json(result)
    exact = [r for r in result["rungs"] if r["activations"] == "exact"]
    return 0 if all(r["same_tokens"] for r in exact) else report_difference(exact)


def tell_story(llm: "LLM", beginning: str, params: "SamplingParams", said: TextIO) -> None:
    """Tell a story on NumPy, which is there at once: a newcomer should not wait for a compiler."""
    c = llm.config
    about = f"{c.name}: {c.parameters() / 1e6:,.1f} million parameters, {c.n_layers} layers"
    print(f"{about}\n\n{beginning}", end="", flush=True, file=said)
    for piece in llm.stream(beginning, params):
        print(piece, end="", flush=True, file=said)
    print(" …\n", flush=True, file=said)


def kernels(  # -> the model on Numba, its bits per weight, the same with 8-bit activations or None; or nothing
    path: "Path", llm: "LLM", activations: str
) -> "tuple[()] | tuple[LLM, float, LLM | None]":
    from minillm.backends import get_backend
    from minillm.errors import MiniLLMError
    from minillm.llm import LLM
    from minillm.model.load import bits_per_weight

    try:
        get_backend("numba")
    except MiniLLMError as error:
        print(f"minillm: the rung of compiled kernels is left out: {error}", file=sys.stderr)
        return ()
    kv = llm.transformer.kv
    rounding = None if activations == "exact" else LLM(path, "numba", kv, activations=activations)
    return LLM(path, "numba", kv), bits_per_weight(path, llm.config), rounding


def report_difference(rungs: list[dict]) -> int:  # exit status
    wrong = [r["name"] for r in rungs if not r["same_tokens"]]
    print(f"minillm: {', '.join(wrong)} gave other tokens than {rungs[0]['name']}", file=sys.stderr)
    return 1
