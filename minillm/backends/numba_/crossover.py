"""Where one way becomes faster than another: the thresholds of this backend, in one table, each measured by a command.

Two kernels for one job have two costs: what a call costs at all, and what each token adds. The one with the smaller
second cost wins in the end, and where it begins to win is a property of the machine, not of the mathematics. So it is
measured, written down here with the command that measured it (TOKENS alone is counted), and read by the code that chooses.

    name         value   says                                                           measured by
    SERIAL           4   up to so many tokens one core does what each token needs       minillm bench kernels (rounding)
    FEW_ROWS         6   rows of a KV head up to which attention reads keys in place    minillm bench kernels (attention)
    TOKENS           8   tokens that share one pass over the codes of a band            the registers: 8 + 8 sums of 32
    SHORT            9   tokens of a segment that is answered row by row           eight drafts and one
    DEQUANTIZE    None   tokens from which a band made float32 first would win          minillm bench kernels (n tokens)

SERIAL is near a draw, and the smaller risk is taken: a region that waits for a busy core costs far more than rounding.
FEW_ROWS is cautious: a single head crosses later. None: never, at any size measured. The integer step of tile.py does 16-bit
pairs at least as fast as a core does floats, so nothing pays for writing and reading float32, several times the bytes.
"""

SERIAL = 4
FEW_ROWS = 6
TOKENS = 8
SHORT = 9
DEQUANTIZE = None


def crossover(tokens, a_seconds, b_seconds):  # [n] ascending, their times by A, their times by B -> n, or None
    """Find the smallest measured number of tokens from which B is faster than A and stays so.

    One lucky run in the middle is no crossover: at every larger size that was measured, B must win too. Equal times are
    no win. None where B does not win at the largest size.
    """
    found = None
    for n, a, b in zip(reversed(tokens), reversed(a_seconds), reversed(b_seconds), strict=True):
        if b >= a:
            break
        found = n
    return found
