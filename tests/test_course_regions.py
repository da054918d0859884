"""Regions: what is an exercise, what is not, and what a blanked one does when it is compiled or called."""

import gc
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import minillm
from minillm.course.exercises import regions

SOURCE = '''def f(x):
    """Add one."""
    # BEGIN SOLUTION ex=01.2
    y = x + 1  # not a comment line

    # a comment line
    y = y * 1
    # END SOLUTION
    return y


def g(x):
    # BEGIN SOLUTION ex=01.10
    return -x
    # END SOLUTION
'''
KERNEL = """extern "C" __global__ void k(float* x) {
    // BEGIN SOLUTION ex=12.3
    x[0] = 1;
    // END SOLUTION
}
"""


def test_regions_are_found_with_their_place_and_size():
    first, second = regions.find(SOURCE)
    assert (first.id, first.first, first.last, first.lines, first.indent) == ("01.2", 2, 7, 2, "    ")
    assert (second.id, second.lines) == ("01.10", 1)
    assert [region.comment for region in regions.find(KERNEL)] == ["//"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("# BEGIN SOLUTION ex=01.1\n", "a.py:1: exercise 01.1 is begun and never ended"),
        ("x\n# END SOLUTION\n", "a.py:2: END without BEGIN"),
        ("# BEGIN SOLUTION ex=01.1\n# BEGIN SOLUTION ex=01.2\n", r"a.py:2: BEGIN inside exercise 01.1 \(line 1\)"),
        ("# BEGIN SOLUTION ex=01.1\n# END SOLUTION\n" * 2, "a.py:3: exercise 01.1 has a region already, at line 1"),
        ("# BEGIN SOLUTION\n# END SOLUTION\n", "a.py:1: a BEGIN mark without its exercise"),
        ("## BEGIN SOLUTION ex=01.1\n", "a.py:1: misspelt mark"),
        ("# BEGIN SOLUTION ex=1.1\n", "a.py:1: misspelt mark"),
        ("# begin solution ex=01.1\n", "a.py:1: misspelt mark"),
        ("# BEGIN SOLUTION ex=01.1\n// END SOLUTION\n", "a.py:2: this END does not match the BEGIN at line 1"),
    ],
)
def test_wrong_marks_are_refused_with_file_and_line(text, says):
    with pytest.raises(regions.RegionError, match=says):
        regions.find(text, "a.py")


def test_blanking_one_leaves_the_other_solved():
    space = {}
    exec(regions.blank(SOURCE, only={"01.2"}, name="a.py"), space)
    assert space["g"](3) == -3
    with pytest.raises(NotImplementedError, match="exercise 01.2"):
        space["f"](1)


def test_a_blanked_source_parses_lists_what_is_unwritten_and_keeps_the_size():
    text = regions.blank(SOURCE, name="a.py")
    assert regions.unwritten(text) == {"01.2": 4, "01.10": 11}
    assert [(r.id, r.lines, r.solved) for r in regions.find(text)] == [("01.2", 2, False), ("01.10", 1, False)]
    assert regions.blank(text, name="a.py") == text, "blanking twice is blanking once"


def test_fill_undoes_blank():
    blanked = regions.blank(SOURCE, name="a.py")
    space = {}
    exec(regions.fill(regions.fill(blanked, "01.2", "if x:\n    y = x + 1\nelse:\n    y = 1"), "01.10", "return -x"), space)
    assert (space["f"](0), space["f"](4), space["g"](2)) == (1, 5, -2)
    with pytest.raises(regions.RegionError, match="no region for exercise 09.9"):
        regions.fill(SOURCE, "09.9", "pass")


def test_blanking_that_would_not_parse_is_refused():
    source = "# BEGIN SOLUTION ex=01.1\nif True:\n# END SOLUTION\n    x = 1\n"
    with pytest.raises(regions.RegionError, match="does not parse once blanked"):
        regions.blank(source, name="a.py")


def test_cuda_c_stops_the_compiler_with_the_name_of_the_exercise():
    assert "    #error exercise 12.3 is not written yet\n" in regions.blank(KERNEL, name="k.cu")
    assert regions.named("k.cu(3): error: #error exercise 12.3 is not written yet") == "12.3"


@pytest.mark.parametrize("inside", ["plain", "loop"])
def test_numba_compiles_a_blank_when_it_is_called_and_names_the_exercise(inside):
    numba = pytest.importorskip("numba")
    loop = "for i in range(x.size):\n        " if inside == "loop" else ""
    pad = "        " if inside == "loop" else "    "
    mark = "# BEGIN SOLUTION ex=01.2\n"
    source = f"def f(x):\n    s = 0.0\n    {loop}{mark}{pad}s += x[0]\n{pad}# END SOLUTION\n    return s\n"
    space = {}
    exec(regions.blank(source, name="a.py"), space)
    compiled = numba.njit(space["f"])
    with pytest.raises(NotImplementedError, match="exercise 01.2"):
        compiled(np.ones(3))


DEVICE = '''
import numpy as np
from numba import cuda

@cuda.jit
def k(x):
    # BEGIN SOLUTION ex=12.1
    x[cuda.grid(1)] = 1.0
    # END SOLUTION
'''
LAUNCH = '''
from minillm.course.exercises import regions
x = np.zeros(4, np.float32)
try:
    k[1, 4](x)
except BaseException as error:
    print("named", regions.named(str(error)))
'''


def test_a_kernel_for_a_device_names_its_exercise_in_the_simulator(tmp_path):
    pytest.importorskip("numba.cuda")
    file = tmp_path / "kernel.py"
    file.write_text(regions.blank(DEVICE, name="kernel.py") + LAUNCH)
    env = os.environ | {"NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": str(Path(minillm.__file__).parents[1])}
    run = subprocess.run([sys.executable, file], env=env, capture_output=True, text=True)
    assert "named 12.1" in run.stdout, run.stdout + run.stderr


def test_two_threads_parse_while_garbage_is_collected():
    """A trial of each wrong solution runs in a thread of its own; hypothesis looks on at each collection."""
    source = Path(regions.__file__).read_text(encoding="utf-8")
    threshold, looks_on = gc.get_threshold(), lambda *_: [None for _ in range(300)]
    gc.callbacks.append(looks_on)
    gc.set_threshold(50)
    try:
        with ThreadPoolExecutor(2) as pool:
            trees = list(pool.map(regions.parse, [source] * 60))
    finally:
        gc.callbacks.remove(looks_on)
        gc.set_threshold(*threshold)
    assert len(trees) == 60
