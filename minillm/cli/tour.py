"""`minillm tour`: the main job. A story, then the ladder of optimizations with its table and picture."""

import sys

from minillm.cli.common import add_model_options, load, print_json

HELP = "climb the ladder of optimizations: a story, a table, tour.png and tour.json"


def configure(parser):
    add_model_options(parser)
    parser.add_argument("--out", default=".", metavar="DIR", help="where tour.png and tour.json go (default: here)")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")


def run(args):
    llm = load(args)
    from minillm import tour
    from minillm.bench.compare import say
    from minillm.model.sampling import SamplingParams

    c = llm.config
    print(f"{c.name}: {c.parameters() / 1e6:,.1f} million parameters, {c.n_layers} layers\n\n> {tour.QUESTION}\n")
    for piece in llm.stream(llm.chat([{"role": "user", "content": tour.QUESTION}]), SamplingParams(max_tokens=tour.NEW_TOKENS)):
        print(piece, end="", flush=True)
    print(" …\n", flush=True)
    result = tour.climb(llm, say)
    say("")
    print(tour.table(result))
    png, data = tour.write(result, args.out)
    print(f"\nPicture: {png}   Data: {data}   Next: minillm generate --chat \"your question\"")
    if args.json:
        print_json(result)
    return 0 if all(r["same_tokens"] for r in result["rungs"]) else report_difference(result)


def report_difference(result):  # -> exit status
    wrong = [r["name"] for r in result["rungs"] if not r["same_tokens"]]
    print(f"minillm: {', '.join(wrong)} gave other tokens than {result['rungs'][0]['name']}", file=sys.stderr)
    return 1
