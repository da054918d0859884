# ruff: noqa: E501
"""Record tests/golden/bpe_training.json: the merges that the trainer of `tokenizers` learns from small corpora.

    python tests/golden/record_bpe_training.py

Run by hand, with `tokenizers` installed. min_frequency is 2, as minillm.training.bpe_train has it; among equally frequent pairs
both take the smallest ids, and the alphabet has GPT-2's order in both, so that the lists are equal to the last merge.
"""

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

HERE = Path(__file__).parent
STORY = """Once upon a time there was a little fox who lived by the river. Every day the fox went to the river to look at the fish.
"Why do you look at us?" said the fish. "Because you're bright," said the fox, "and I've nothing bright of my own." The fish
swam away, and the next day they brought the fox a bright little stone. The fox was happy. It's on the fox's shelf to this day.

In 1998 there were 1998 foxes; in 2008 there were 2,008.   Aaaaaaah! aaaa aaaaa aaaaaa banananana bananana.
\tДо свидания, лиса. До встречи, лиса! 狐狸在河边。狐狸在看鱼。 🦊🦊🦊 Füchse, Füchse und füchsische Füße…
"""
PRES = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
}


def merges(text: str, vocab_size: int, pre: str) -> list[str]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = PRES[pre]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, min_frequency=2, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text], trainer)
    return [" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]


if __name__ == "__main__":
    texts = {"story": STORY, "this script": Path(__file__).read_text()}
    rows = [
        {"name": name, "pre": pre, "text": text, "merges": merges(text, 4096, pre)}
        for name, text in texts.items()
        for pre in PRES
    ]
    (HERE / "bpe_training.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n")
    print([(row["name"], row["pre"], len(row["merges"])) for row in rows])
