"""`minillm imatrix --model M --text FILE --out FILE`: an importance matrix, for `minillm quantize`.

The model reads some of the text, and for each matrix the squares of its inputs are summed. Use text like that which the model
will see: what it is never fed counts for nothing. Best with the model in F16, before it is quantized.
"""

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minillm.cli.arguments import Parser
from minillm.cli.common import add_threads_option, load, print_json

HELP = "measure on a text which columns of each matrix matter, for minillm quantize"


def configure(parser: Parser) -> None:
    parser.add_argument("--model", required=True, metavar="M", help="a .gguf file, best one in F16, or a model by name")
    parser.add_argument("--text", required=True, metavar="FILE", help="UTF-8; .gz and .xz are unpacked")
    parser.add_argument("--out", required=True, metavar="FILE", help="the new file: GGUF, or llama.cpp's older format as .dat")
    parser.add_argument("--chunks", type=int, default=32, metavar="N", help="pieces of the text to read (default: %(default)s)")
    parser.add_argument("--context", type=int, default=512, metavar="N", help="tokens of a piece (default: %(default)s)")
    add_threads_option(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the summary")


def run(args: Namespace) -> int:
    from minillm.calibration.collect import chunks_of
    from minillm.calibration.importance import importance_matrix
    from minillm.errors import MiniLLMError
    from minillm.formats.imatrix import write_imatrix
    from minillm.formats.requantize import refuse_itself
    from minillm.terminal import bar
    from minillm.training.data import read_corpus

    for name in ("chunks", "context"):
        if getattr(args, name) < 1:
            raise MiniLLMError(f"--{name} must be at least 1, found {getattr(args, name)}.")
    text = read_corpus(args.text)
    refuse_itself(args.text, args.out)
    args.backend = "numpy"  # the reference, whose products can be looked into
    llm = load(args)
    context = min(args.context, llm.config.context_length)
    chunks = chunks_of(llm.tokenizer, text, context, args.chunks)
    with bar(len(chunks), "chunks", what="imatrix") as progress:

        def told() -> Iterator[Any]:
            for chunk in chunks:
                yield chunk
                progress.update()

        matrix = importance_matrix(llm.transformer, told(), context, Path(args.text).name)
    write_imatrix(args.out, matrix)
    result = {
        "path": args.out, "matrices": len(matrix.sums), "chunks": matrix.chunks, "context": context,
        "tokens": matrix.chunks * context,
    }  # fmt: skip
    if args.json:
        print_json(result)
    else:
        print(f"{len(matrix.sums)} matrices, {matrix.chunks} chunks of {context:,} tokens: {args.out}")
    return 0
