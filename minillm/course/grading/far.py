"""What stands in the judge for an object that stays in the child: a closure, a generator, an instance of a class of its own.

It can be handed back. A callable can be called and an iterator asked for its next item, across the wall; nothing else is asked.
"""

from minillm.course.grading.wire import WallError

ENDLESS = 1_000_000  # items of one iterator


class Far:
    """Stands for an object that stays in the child and has no known kind; it can be handed back, and nothing else."""

    def __init__(self, wall, number):
        self.wall_of, self.wall_at = wall, number

    def __repr__(self):
        return f"<{type(self).__name__} of the submission>"


class FarCallable(Far):
    def __call__(self, *args, **kwargs):
        return self.wall_of.ask("invoke", self.wall_at, (args, tuple(kwargs.items())))


class FarIterator(Far):
    count = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.count += 1
        if self.count > ENDLESS:
            raise WallError(f"an iterator gave {ENDLESS:,} items and did not end.")
        return self.wall_of.ask("next", self.wall_at, None)
