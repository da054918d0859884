"""A picture for a phone: panels that stand side by side in a notebook stand one below the other in its lesson.

A lesson is read at 390 pixels. Two panels of 512 pixels side by side shrink to a third there, and letters of 11 pixels to four;
one below the other they keep two thirds. Nothing is drawn anew, since a new drawing would need a new measurement: the picture
of the notebook is cut where it has no ink, and its pixels are moved.

    ┌───┬───┐      ┌───┐
    │ a │ b │  ─►  │ a │     width of the page / width of the picture: 358/1024 before, 358/516 after
    └───┴───┘      ├───┤
                   │ b │
                   └───┘
"""

import io

from minillm.course.notebooks.contract import NotebookError

GAP, AROUND = 4, 0.05  # least columns without ink between panels; share of the width in which they are looked for


def stacked(png, panels):  # a PNG, how many panels it has side by side -> PNG
    """Put the panels of a picture one below the other. NotebookError where no clean cut is between them."""
    import numpy as np

    if panels < 2:
        return png
    pixels = decoded(png)  # (rows, columns, channels)
    edges = [0, *(cut(pixels, panels, k) for k in range(1, panels)), pixels.shape[1]]
    parts = [pixels[:, a:b] for a, b in zip(edges, edges[1:], strict=False)]
    width = max(part.shape[1] for part in parts)
    padded = [np.pad(part, ((0, 0), (0, width - part.shape[1]), (0, 0)), constant_values=1.0) for part in parts]
    return encoded(np.concatenate(padded))


def cut(pixels, panels, k):  # (rows, columns, channels), panels, border -> column
    """Find the border after panel k: the middle of the first white columns, from top to bottom, near k / panels of the width."""
    width = pixels.shape[1]
    white = (pixels > 0.98).all(axis=(0, 2))
    middle, reach = width * k // panels, int(AROUND * width)
    run = 0
    for column in range(middle - reach, middle + reach):
        if white[column]:
            run += 1
        elif run >= GAP:
            return column - run // 2 - 1
        else:
            run = 0
    raise NotebookError(f"no {GAP} columns without ink between panels {k} and {k + 1}: plots.figure leaves such a gap.")


def same_picture(a, b):  # two PNGs -> bool
    """Compare pixels: how a PNG is packed depends on the version of a library."""
    if a == b:
        return True
    try:
        a, b = decoded(a), decoded(b)
    except (OSError, SyntaxError, ValueError):  # what readers of images raise for a file that is none
        return False
    return a.shape == b.shape and bool((a == b).all())


def decoded(png):  # -> float32 (rows, columns, channels) in 0 to 1
    from matplotlib.image import imread

    return imread(io.BytesIO(png), format="png")


def encoded(pixels):
    from matplotlib.image import imsave

    imsave(file := io.BytesIO(), pixels, format="png", dpi=80, metadata={"Software": None})
    return file.getvalue()
