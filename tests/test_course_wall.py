"""The wall between judge and submission: objects stay the same objects, and what is no value is refused."""

import socket
import threading
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.cache.block_pool import BlockPool
from minillm.cache.contiguous import ContiguousCache
from minillm.cache.radix import RadixCache
from minillm.course.grading import remote
from minillm.course.grading.kinds import contents, flat
from minillm.course.grading.mirror import Mirror
from minillm.course.grading.proxies import resolve
from minillm.course.grading.raised import Raised
from minillm.course.grading.wire import Lane, WallError
from minillm.errors import OutOfBlocks, RequestError
from minillm.metrics.events import Event
from minillm.model.sampling import SamplingParams


class Across:
    """Both sides in one process: call(function, *args) runs function on the other side's copies."""

    def __init__(self):
        self.functions, ours, theirs = {}, *socket.socketpair()
        self.wall = remote.Wall(None, {})
        here, there = Raised(self.wall.world.class_of), Raised(self.wall.world.class_of, __file__)
        self.mirror, self.other = Mirror(self.wall.world, 0), Mirror(remote.World(self), 1)
        self.other.world.poses = self.refuse
        self.other.world.function_name, self.other.world.function_of = lambda x: None, resolve  # as a child has them
        self.other.world.stand_for = lambda number, description: Asker(self, number)
        self.other.world.describe = lambda x: [type(x).__name__, callable(x), hasattr(x, "__next__")]
        self.wall.mirror = self.mirror
        self.lane = Lane(ours, self.mirror, self.wall.perform, here.describe, here.restore)
        self.far = Lane(theirs, self.other, self.perform, there.describe, there.restore)
        self.wall.ask = self.lane.ask
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        try:
            self.far.serve()
        except WallError:
            self.far.connection.close()  # as when a process ends, or this side would wait for ever

    def perform(self, op, to, value):
        if op == "next":
            return next(self.other.objects[to])
        args, _ = value
        return (self.other.objects[to] if op == "invoke" else self.functions[to])(*args)

    def refuse(self, packing, x):
        raise TypeError(f"an object of class {type(x).__name__} was returned")

    def call(self, function, *args):
        self.functions[function.__name__] = function
        return self.lane.ask("call", function.__name__, (args, ()))


class Asker:
    """What stands on the other side for an object of a test."""

    def __init__(self, across, number):
        self.across, self.number = across, number

    def __call__(self, *args):
        return self.across.far.ask("__call__", self.number, (args, ()))

    def get(self, name):
        return self.across.far.ask("get", self.number, name)


@pytest.fixture
def across():
    one = Across()
    yield one
    one.lane.connection.close()


numbers = st.one_of(st.none(), st.booleans(), st.integers(-(10**30), 10**30), st.floats(allow_nan=False), st.text(), st.binary())
values = st.recursive(
    numbers | st.builds(np.float32, st.floats(-9, 9)) | st.builds(slice, st.integers(0, 3)) | st.frozensets(st.just(7)),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.tuples(st.integers()), inner),
    max_leaves=8,
)


@settings(max_examples=40)
@given(value=values)
def test_a_value_comes_back_as_it_went_of_the_very_types(value):
    across = Across()
    back = across.call(lambda x: (x, [x]), value)
    across.lane.connection.close()
    assert back == (value, [value]) and repr(back) == repr((value, [value]))


def test_what_is_changed_there_is_changed_here_in_the_very_objects(across):
    x, names, seen, line = np.zeros((3, 4)), ["a"], {"k": {1}}, deque([1], 3)
    counts, order = Counter("aab"), OrderedDict(b=1, a=2)

    def change(x, names, seen, line, counts, order):
        x[1:, ::2] += 7
        names.append(names)
        seen["k"].add(2)
        seen["new"] = names
        line.extend([2, 3, 4])
        counts["b"] += 5
        order.move_to_end("b")
        return names

    assert across.call(change, x, names, seen, line, counts, order) is names
    assert x.tolist() == [[0] * 4, [7, 0, 7, 0], [7, 0, 7, 0]]
    assert names[1] is names is seen["new"] and seen["k"] == {1, 2} and line == deque([2, 3, 4])
    assert counts == {"a": 2, "b": 6} and type(counts) is Counter and list(order) == ["a", "b"]
    names.append("b")
    assert across.call(lambda names: len(names), names) == 3, "what is changed here is changed there"


def test_what_is_changed_there_and_back_here_is_sent_again(across):
    counts = [1]

    def free(counts):
        counts[0] -= 1
        return counts[0]

    for _ in range(3):
        assert across.call(free, counts) == 0
        counts[0] += 1  # as it was when it was sent last, and not as the other side has it


def test_views_of_one_memory_stay_views_of_it(across):
    x = np.arange(12.0).reshape(3, 4)
    head, turned, again = across.call(lambda x: (x[:2], x.T[::-1], x), x)
    assert again is x and np.shares_memory(head, x) and turned.tolist() == x.T[::-1].tolist()
    x[0, 0] = 99
    assert head[0, 0] == 99 and turned[-1, 0] == 99
    copied, empty = across.call(lambda x: (x.copy(), x[:0]), x)
    assert not np.shares_memory(copied, x) and empty.shape == (0, 4)
    part = x[1]
    across.call(lambda part: part.fill(5), part)
    assert x[1].tolist() == [5] * 4


def test_objects_of_the_package_cross_with_all_they_hold(across):
    cache = ContiguousCache(2, 1, 2, 9)
    k = np.ones((3, 1, 2), np.float32)
    across.call(ContiguousCache.append, cache, 1, k, k)
    assert cache.lengths == [0, 3] and cache.k[1, :3].tolist() == k.tolist()
    read = across.call(ContiguousCache.read, cache, 1)[0]
    assert np.shares_memory(read, cache.k)
    with pytest.raises(RequestError, match="holds 9 tokens, 13 were asked for"):
        across.call(ContiguousCache.append, cache, 0, np.ones((13, 1, 2)), k)
    params = SamplingParams(seed=4, stop=("x",))  # frozen, with slots
    assert across.call(lambda p: (p.seed, p.stop), params) == (4, ("x",))
    assert across.call(lambda e: [e._replace(tokens=5)], Event(1, "token", 2.0)) == [Event(1, "token", 2.0, 5)]


def test_a_tree_that_points_up_and_down_crosses(across):
    tree = RadixCache(BlockPool(8, 2))
    blocks = [tree.pool.allocate() for _ in range(4)]
    tree.commit(list(range(8)), blocks)
    (lower,) = tree.root.children.values()
    upper = across.call(RadixCache.split, tree, lower, 1)
    assert lower.parent is upper and upper.parent is tree.root and tree.home[blocks[0]] is upper
    assert [pages for _, pages in tree.path(list(range(8)))] == [1, 3]


def test_one_generator_given_twice_is_one_generator(across):
    shared = np.random.default_rng(1)
    first, second = across.call(lambda: shared), across.call(lambda: shared)
    assert first is second
    alone = np.random.default_rng(1)
    assert first.random() == alone.random()
    across.call(lambda rng: rng.random(), first)
    alone.random()
    assert first.random() == alone.random(), "what is drawn there is drawn here"


def test_each_side_sees_what_the_other_did_before_the_word_passed(across):
    heard, numbers = [], [1]

    def listen(numbers):
        heard.append(list(numbers))
        numbers.append("here")

    def work(numbers, tell):
        numbers.append("there")
        tell(numbers)
        return list(numbers)

    assert across.call(work, numbers, listen) == [1, "there", "here"] == numbers and heard == [[1, "there"]]


def test_a_generator_there_is_asked_for_one_item_after_another(across):
    asked = []

    def count(tell):
        for i in range(3):
            tell(i)
            yield i

    items = across.call(count, asked.append)
    assert asked == [] and next(items) == 0 and asked == [0] and list(items) == [1, 2]
    double = across.call(lambda: lambda x: 2 * x)
    assert double(4) == 8


def test_what_a_test_raises_in_a_callback_comes_back_as_itself(across):
    problem = ValueError("of the test")

    def fail():
        raise problem

    with pytest.raises(ValueError) as caught:
        across.call(lambda call: call(), fail)
    assert caught.value is problem

    def own():
        raise OutOfBlocks("of the submission")

    with pytest.raises(OutOfBlocks, match="of the submission") as caught:
        across.call(own)
    assert "test_course_wall" in caught.value.line or caught.value.line.startswith(":")


def test_a_subclass_that_could_lie_is_refused_and_nothing_is_lost(across):
    class Liar(int):
        def __eq__(self, other):
            return True

    def lie(names):
        names.append("before")
        return [Liar(3)]

    names = []
    with pytest.raises(TypeError, match="an object of class Liar"):
        across.call(lie, names)
    assert names == ["before"], "what it did before is seen all the same"
    assert across.call(lambda names: names, names) is names


@dataclass
class Secret:
    """A test's own object. What is not named may not be seen."""

    for_submissions = ("shape",)
    shape: tuple = (2,)
    answer: int = 42


def test_of_a_tests_own_object_a_submission_sees_what_it_may_and_changes_nothing(across):
    class Open:
        def __init__(self):
            self.loads = [1]

    secret, opened = Secret(), Open()
    assert across.call(lambda far: far.get("shape"), secret) == (2,)
    for name in ("answer", "__dict__", "_x"):
        with pytest.raises(AttributeError):
            across.call(lambda far, name=name: far.get(name), secret)
    across.call(lambda far: far.get("loads").clear(), opened)
    assert opened.loads == [1]
    with pytest.raises(AttributeError):
        across.call(lambda far: far.get("__globals__"), test_there_is_nothing_but_numbers)


def test_there_is_nothing_but_numbers():
    assert flat(np.zeros((2, 3)).T).size == 48 and flat(np.zeros((4, 4))[:, ::2]) is None
    assert contents({1: 2}, "dict") == [1, 2]


def memory(*more):
    return [[3, "memory", 0], *more]


LIES = {
    "a tag that there is not": ([], ["x", 1]),
    "an object that does not exist": ([], ["@", 77]),
    "an object with the judge's number": ([[2, "list", []]], None),
    "a number that is no number": ([["3", "list", []]], None),
    "a class that runs": ([[3, "object", "subprocess:Popen", {}]], None),
    "a class of the course": ([[3, "object", "minillm.course.grading.remote:Wall", {}]], None),
    "a class that a module has imported": ([], ["k", "minillm.layers:np.random.Generator"]),
    "a function as a class": ([[3, "object", "minillm.layers:linear", {}]], None),
    "an exception made without words": ([[3, "object", "minillm.errors:OutOfBlocks", {}]], None),
    "a method hidden by an attribute": ([[3, "object", "minillm.cache.block_pool:BlockPool", {"share": 1}]], None),
    "a property hidden": ([[3, "object", "minillm.cache.block_pool:BlockPool", {"num_free": 1}]], None),
    "a dunder": ([[3, "object", "minillm.cache.block_pool:BlockPool", {"__class__": 1}]], None),
    "a function by its name": ([[3, "name", "minillm.layers:linear"]], ["@", 3]),
    "an array beyond its memory": (memory([5, "array", 3, "<f8", [9], [8], 0, True]), ["@", 5]),
    "an array before its memory": (memory([5, "array", 3, "<f8", [1], [8], -8, True]), ["@", 5]),
    "an array of objects": (memory([5, "array", 3, "|O", [1], [8], 0, True]), ["@", 5]),
    "an array of a trillion": (memory([5, "array", 3, "<f8", [10**6, 10**6], [0, 0], 0, True]), ["@", 5]),
    "an array of a negative size": (memory([5, "array", 3, "<f8", [-1], [8], 0, True]), ["@", 5]),
    "memory that is not there": ([[3, "memory", 4]], None),
    "a change of a test's own object": ([[0, "far", ["Secret", []]]], None),
    "a tuple that is no end": ([], __import__("functools").reduce(lambda x, _: ["t", x], range(99), 1)),
    "a named tuple of another length": ([], ["N", "minillm.metrics.events:Event", 1]),
    "a generator of no kind": ([[3, "generator", {"bit_generator": "os"}]], None),
    "an unhashable key": ([[3, "list", []], [5, "dict", [[["@", 3], 1]]]], None),
    "a type that runs": ([], ["k", "builtins:eval"]),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_is_no_value_is_refused(lie):
    mirror = Mirror(remote.Wall(None, {}).world, 0)
    mirror.pack({}, Secret())  # object 0
    changes, value = LIES[lie]
    with pytest.raises(WallError):
        mirror.unpack({"changes": changes, "value": value}, [b"\0" * 8])


@pytest.mark.parametrize(
    "told",
    [None, {}, {"class": "builtins:SystemExit", "words": "x"}, {"class": "os:system", "words": "x", "at": None, "because": [],
     "number": 1, "back": False}, {"back": True, "number": 5}],
)  # fmt: skip
def test_an_exception_that_is_none_is_refused(told):
    with pytest.raises(WallError):
        Raised(remote.Wall(None, {}).world.class_of).restore(told)


@pytest.mark.parametrize("name", ["builtins:SystemExit", "builtins:KeyboardInterrupt", "builtins:eval", "builtins:nothing"])
def test_an_exception_that_would_end_the_judge_is_a_plain_one(name):
    told = {"class": name, "words": "x", "at": None, "because": [], "number": 1, "back": False}
    assert type(Raised(None).restore(told)) is RuntimeError
