"""Two texts that share no document: one to calibrate on, one to measure on.

Who measures on the text that a method was calibrated on measures how well it learned that text. So our stories are split by
document, as for training (training/data.py, `split`): what `tiny` learned from is for calibration, and what was held out of its
training is for measuring. Which side a story is on follows from its own words: no machine and no version has another split.

    texts = story_texts()         texts.calibration, texts.held_out: whole documents with END_OF_TEXT between them
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from minillm.model import zoo
from minillm.training.data import read_corpus, split
from minillm.training.prepare import END_OF_TEXT

HELD_OUT = 0.03  # of the documents, as in data/models/tiny.toml
CALIBRATION, MEASURED = 1000, 200  # documents: about 270,000 tokens, and 53,000


@dataclass(frozen=True, slots=True)
class Texts:
    """Documents by side, and each side as one text."""

    calibration_documents: list[str]
    held_out_documents: list[str]

    @property
    def calibration(self) -> str:
        return END_OF_TEXT.join(self.calibration_documents)

    @property
    def held_out(self) -> str:
        return END_OF_TEXT.join(self.held_out_documents)


@lru_cache(maxsize=2)  # unpacking takes seconds; what is kept is no more than the documents asked for
def story_texts(
    corpus: str | Path | None = None, calibration: int | None = CALIBRATION, measured: int | None = MEASURED
) -> Texts:
    """Take the first so many documents of each side of a corpus, ours where none is named; None: all of a side.

    TrainingError where the corpus cannot be read: a package without its checkout has no stories.
    """
    path = corpus or zoo.embedded_folder().parent / "corpus" / "stories.txt.xz"
    learned, held_out = split(read_corpus(path), END_OF_TEXT, HELD_OUT)
    return Texts(learned[:calibration], held_out[:measured])
