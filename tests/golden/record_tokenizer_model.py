"""Record tests/golden/tokenizer_model.json: one SentencePiece BPE as the two files that hubs have of it, and the ids of texts.

    python record_tokenizer_model.py

Run by hand, with sentencepiece, transformers and protobuf installed; no code of minillm runs here. Kept: tokenizer.model, as
SentencePiece trained it; tokenizer.json, as transformers derives it for a Llama; and the ids that each gives, which differ for
texts that begin with a space, and after control tokens ("legacy": transformers 5 makes of it where Metaspace puts a space).
"""

import base64
import importlib.metadata
import json
import random
import tempfile
from pathlib import Path

import sentencepiece
import transformers
from record_sentencepiece import PIECES, PROSE

MORE = ["Hello world", "<0x41>", "\u4e2d\u6587", "1234", "e\u0301", "\x00\t", "the\u00a0fox", "", "  ", "aaaaaaa", "     the"]
SPECIAL = ["<s>the", "the</s> the", "</s>", "a<unk>b", " <s> a"]


def texts():
    rng = random.Random(9)
    return [*PIECES, *MORE, *("".join(rng.choices(PIECES + MORE, k=rng.randint(2, 9))) for _ in range(60))]


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(PROSE.splitlines() * 20), model_prefix=str(folder / "tokenizer"), model_type="bpe",
            vocab_size=420, byte_fallback=True, character_coverage=0.99, normalization_rule_name="identity",
            remove_extra_whitespaces=False, split_digits=True, allow_whitespace_only_pieces=True, hard_vocab_limit=False,
            minloglevel=2,
        )  # fmt: skip
        model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        recorded = {
            "versions": {name: importlib.metadata.version(name) for name in ("sentencepiece", "transformers", "tokenizers")},
            "tokenizer.model": base64.b64encode((folder / "tokenizer.model").read_bytes()).decode(),
            "sentencepiece": [[text, model.encode(text)] for text in texts()],
        }
        (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
        for legacy in (True, False):
            options = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
            (folder / "tokenizer_config.json").write_text(json.dumps(options | {"legacy": legacy}))
            theirs = transformers.AutoTokenizer.from_pretrained(folder)
            theirs.save_pretrained(folder / "saved")
            saved = json.loads((folder / "saved" / "tokenizer.json").read_text(encoding="utf-8"))
            name = "always" if legacy else "first"
            assert saved["pre_tokenizer"]["prepend_scheme"] == name
            recorded["tokenizer.json"] = saved  # but for that one word it is the same
            recorded[name] = [[text, theirs(text)["input_ids"]] for text in [*texts(), *SPECIAL]]
    lines = ",\n".join(f"{json.dumps(key)}:{json.dumps(value, separators=(',', ':'))}" for key, value in recorded.items())
    Path(__file__).with_name("tokenizer_model.json").write_text(f"{{{lines}}}\n")


if __name__ == "__main__":
    main()
