import numpy as np

from minillm.course.checks import check_close, draws, exercise
from minillm.kernels import device, fast


@exercise("92.1", points=2, hint="What is the sum before the first element?")
def test_total_is_the_sum():
    x = draws(3, 17).astype(np.float64)
    check_close(fast.total(x), sum(x.tolist()), what="total")


@exercise("92.2", hint="Which thread may write?")
def test_scale_keeps_to_the_array():
    assert "if (i < n)" in device.scale(), "a thread beyond the end of the array must not write"


@exercise("92.3", hint="One thread, one element.")
def test_add_adds():
    assert "+= a" in device.build(device.ADD), "add must add a"
