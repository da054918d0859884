"""`minillm backends`: which backends this machine can run."""

HELP = "list the backends and whether this machine can run them"


def configure(parser):
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args):
    from minillm.backends import BACKENDS, get_backend
    from minillm.cli.common import print_json

    first_lines = {name: get_backend(name).__doc__.splitlines()[0] for name in BACKENDS}
    if args.json:
        print_json({name: {"available": True, "summary": line} for name, line in first_lines.items()})
    else:
        for name, line in first_lines.items():
            print(f"{name:8} {line}")
    return 0
