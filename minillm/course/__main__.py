"""python -m minillm.course: the same as `minillm course`, for a bundle whose commands are not installed."""

import argparse
import sys

from minillm.cli import course
from minillm.errors import MiniLLMError


def main(argv=None):
    parser = argparse.ArgumentParser(prog="minillm course", description=course.HELP)
    course.configure(parser)
    try:
        return course.run(parser.parse_args(argv))
    except MiniLLMError as error:
        print(f"minillm: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
