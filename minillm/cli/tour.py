"""`minillm tour`: the main job. A story, then the ladder of optimizations with its table and picture.

The lower rungs run on NumPy, unless --backend names another, because that is the code that the lessons read; the rung of
compiled kernels loads the model once more, on Numba.
"""

import sys

from minillm.cli.common import add_model_options, model_path, print_json

HELP = "climb the ladder of optimizations: a story, a table, tour.png and tour.json"


def configure(parser):
    add_model_options(parser)
    parser.add_argument("--out", default=".", metavar="DIR", help="where tour.png and tour.json go (default: here)")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")


def run(args):
    path = model_path(args)
    from minillm import tour
    from minillm.bench.compare import say
    from minillm.llm import LLM
    from minillm.model.sampling import SamplingParams

    llm = LLM(path, "numpy" if args.backend == "auto" else args.backend)
    c = llm.config
    print(f"{c.name}: {c.parameters() / 1e6:,.1f} million parameters, {c.n_layers} layers\n\n{tour.BEGINNING}", end="")
    for piece in llm.stream(tour.BEGINNING, SamplingParams(max_tokens=tour.NEW_TOKENS)):
        print(piece, end="", flush=True)
    print(" …\n", flush=True)
    result = tour.climb(llm, say, *kernels(path, llm))
    say("")
    print(tour.table(result))
    png, data = tour.write(result, args.out)
    print(f"\nPicture: {png}   Data: {data}   Next: minillm generate \"Once upon a time\"")
    if args.json:
        print_json(result)
    return 0 if all(r["same_tokens"] for r in result["rungs"]) else report_difference(result)


def kernels(path, llm):  # -> the same model on Numba and its bits per weight, or nothing where Numba cannot be loaded
    from minillm.backends import get_backend
    from minillm.errors import MiniLLMError
    from minillm.llm import LLM
    from minillm.model.load import bits_per_weight

    try:
        get_backend("numba")
    except MiniLLMError as error:
        print(f"minillm: the rung of compiled kernels is left out: {error}", file=sys.stderr)
        return ()
    return LLM(path, "numba"), bits_per_weight(path, llm.config)


def report_difference(result):  # -> exit status
    wrong = [r["name"] for r in result["rungs"] if not r["same_tokens"]]
    print(f"minillm: {', '.join(wrong)} gave other tokens than {result['rungs'][0]['name']}", file=sys.stderr)
    return 1
