"""The learning rate over a run: up in a line, down along half a cosine.

Adam's first steps rest on moments averaged over a handful of gradients, so they are kept small: warm-up. Towards the end
smaller steps let the weights settle. The cosine is flat at both ends, and stops at a floor above zero.

    step t ≤ warmup     peak · t / warmup
    later               floor + (peak - floor) · (1 + cos(π · (t - warmup) / (steps - warmup))) / 2

Loshchilov and Hutter 2017, arXiv:1608.03983 (the cosine); Goyal et al. 2017, arXiv:1706.02677 (warm-up).
"""

import math


def learning_rate(step: int, *, peak: float, floor: float, warmup: int, steps: int) -> float:
    """Compute the learning rate of a step; steps count from 1 to `steps`, and the last one takes `floor`.

    peak ≥ floor ≥ 0. warmup = 0: none. warmup ≥ steps: the line alone, as far as it comes.
    """
    if step <= warmup:
        return peak * (step / warmup)
    if step >= steps:
        return floor
    share = (step - warmup) / (steps - warmup)
    return floor + (peak - floor) * (1 + math.cos(math.pi * share)) / 2
