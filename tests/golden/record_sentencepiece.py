"""Record tests/golden/sentencepiece.json: a small SentencePiece vocabulary without byte tokens, so that <unk> occurs.

    python tests/golden/record_sentencepiece.py

Run by hand, with sentencepiece installed. Recorded are the tokens of texts, and the texts of random tokens; control tokens are
not among them, since SentencePiece drops these, and ours writes them.
"""

import json
import random
import tempfile
from pathlib import Path

import sentencepiece

PROSE = """the quick brown fox jumps over the lazy dog. a lantern hung in the window of the last house before the woods.
one two three four five six seven eight nine ten; who would see it? nobody knew, they'll say now that they'd all seen it."""
PIECES = ["the", " the", "fox", " ", "  ", "é", "☃", "☃☃", "😀", " é ", "window", ".", "x☃y", "\n"]


def main():
    rng = random.Random(25)
    with tempfile.TemporaryDirectory() as folder:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(PROSE.splitlines() * 20), model_prefix=f"{folder}/m", model_type="bpe", vocab_size=120,
            normalization_rule_name="identity", remove_extra_whitespaces=False, hard_vocab_limit=False, minloglevel=2,
        )  # fmt: skip
        model = sentencepiece.SentencePieceProcessor(model_file=f"{folder}/m.model")
    size = model.vocab_size()
    types = [2 if model.is_unknown(i) else 3 if model.is_control(i) else 1 for i in range(size)]
    plain = [i for i in range(size) if types[i] == 1]
    texts = PIECES + ["".join(rng.choices(PIECES, k=rng.randint(1, 8))) for _ in range(80)]
    ids = [rng.choices([0, *plain], weights=[len(plain) / 3] + [1] * len(plain), k=rng.randint(1, 9)) for _ in range(80)]
    recorded = {
        "tokens": [model.id_to_piece(i) for i in range(size)],
        "scores": [model.get_score(i) for i in range(size)],
        "types": types,
        "encode": [[text, model.encode(text)] for text in texts],
        "decode": [[i, model.decode(i)] for i in ids],
    }
    Path(__file__).with_name("sentencepiece.json").write_text(json.dumps(recorded) + "\n")
    print(f"{size} tokens, {len(texts)} texts, {len(ids)} lists of tokens")


if __name__ == "__main__":
    main()
