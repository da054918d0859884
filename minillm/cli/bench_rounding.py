"""The options of `minillm bench quantization`, `activations`, `kv` and `precision`: what rounding costs."""

from argparse import Namespace
from types import ModuleType

from minillm.cli.arguments import Parser
from minillm.cli.benchmark_options import add_counts, numbers
from minillm.cli.common import add_model_options, model_path


def add_documents(parser: Parser) -> None:
    parser.add_argument("--documents", type=int, metavar="N", help="held-out stories (default: all 200, 52,000 tokens)")


def add_quantization(parser: Parser) -> None:
    """Add methods and bits."""
    add_model_options(parser, backend=False)
    parser.add_argument("--methods", metavar="M,M", help="rtn,sym,hqq,gptq,awq,q,k,nf4 …: a wrong one lists them (default: all)")
    parser.add_argument("--bits", default="8,4,3,2", metavar="N,N", help="of 8, 4, 3 and 2 (default: %(default)s)")
    parser.add_argument("--group", type=int, default=64, metavar="N", help="weights that share a scale (default: %(default)s)")
    add_documents(parser)
    add_counts(parser, rounds=3)
    parser.add_argument("--no-speed", action="store_true", help="quality and bytes only")


def run_quantization(args: Namespace, module: ModuleType) -> dict:
    """Run methods × bits."""
    from minillm.bench.quantized_files import ALL

    methods = args.methods.split(",") if args.methods else ALL
    sizes = numbers("--bits", args.bits), args.group, args.documents, args.rounds
    return module.run(model_path(args), methods, *sizes, not args.no_speed)


def add_activations(parser: Parser) -> None:
    """Add methods and sizes of outliers."""
    add_model_options(parser, backend=False)
    parser.add_argument("--methods", metavar="M,M", help="static,token,smooth_static …: a wrong one lists them (default: all)")
    parser.add_argument("--outliers", default="1,10,20,50", metavar="N,N", help="times as large, 1: none (default: %(default)s)")
    parser.add_argument("--alpha", type=float, default=0.5, metavar="A", help="migration strength (default: %(default)s)")
    add_documents(parser)


def run_activations(args: Namespace, module: ModuleType) -> dict:
    """Run methods × outliers."""
    methods = args.methods.split(",") if args.methods else list(module.METHODS)
    return module.run(model_path(args), methods, numbers("--outliers", args.outliers), args.documents, args.alpha)


def add_kv(parser: Parser) -> None:
    """Add formats and sizes of outliers."""
    add_model_options(parser, backend=False)
    parser.add_argument("--outliers", default="1,20", metavar="N,N", help="of keys, so many times as large; 1: the model's own")
    add_documents(parser)


def run_kv(args: Namespace, module: ModuleType) -> dict:
    """Run formats × outliers."""
    return module.run(model_path(args), args.documents, numbers("--outliers", args.outliers))


def add_precision(parser: Parser) -> None:
    """Add activations, formats, and what to measure."""
    add_model_options(parser)
    parser.set_defaults(backend="numba")  # whose kernels are fast at 8 bits
    parser.add_argument("--activations", default="exact,int8", metavar="A,A", help="exact, int8 (default: %(default)s)")
    parser.add_argument("--kv", metavar="KIND,KIND", help="keys, values: float32,rot4 …: a wrong one lists them (default: all)")
    add_documents(parser)
    parser.add_argument("--context", type=int, default=1024, metavar="N", help="tokens of a window (default: %(default)s)")
    add_counts(parser, prompt_tokens=512)
    parser.add_argument("--batch", default="1,16,32", metavar="N,N", help="sequences at once (default: %(default)s)")
    add_counts(parser, rounds=3)
    parser.add_argument("--no-speed", action="store_true", help="quality and bytes only")


def run_precision(args: Namespace, module: ModuleType) -> dict:
    """Run activations × formats."""
    kvs = args.kv.split(",") if args.kv else module.KV_NAMES
    sizes = args.documents, args.context, args.prompt_tokens, numbers("--batch", args.batch), args.rounds
    return module.run(model_path(args), args.activations.split(","), kvs, args.backend, *sizes, not args.no_speed)
