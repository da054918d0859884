"""The stages of a tokenizer.json, each recognized whole or refused by name.

    text ─▶ normalizer ─▶ pre_tokenizer ─▶ model ─▶ post_processor ─▶ ids
            none or NFC   four structures   BPE      the BOS token, or nothing

Each stage changes tokens. A pattern that differs in one character from those we know cuts other words, and the model reads tokens
that it was not trained on: it still answers, only worse, and without an error. So nothing is guessed from a part of a stage.

The format: huggingface.co/docs/tokenizers, and its source (tokenizers/src/pre_tokenizers, processors).
"""

from minillm.errors import TokenizerError
from minillm.formats.expect import Fields, shown
from minillm.model.tokenizer.metadata import NORMALIZERS
from minillm.model.tokenizer.pretokenize import GPT2, LLAMA3, QWEN2

STRUCTURES = {  # the steps of a pre_tokenizer, ByteLevel with whether it cuts by GPT-2's pattern: GGUF's name
    (("ByteLevel", True),): "gpt-2",
    (("Split", GPT2), ("ByteLevel", False)): "gpt-2",
    (("Digits", True), ("ByteLevel", True)): "smollm",
    (("Split", LLAMA3), ("ByteLevel", False)): "llama-bpe",
    (("Split", QWEN2), ("ByteLevel", False)): "qwen2",
}
MOST_STEPS = 16
ONE_IN_FRONT = "one text, with at most one token in front of it"


def steps(stage: Fields, key: str) -> list[Fields]:
    """List the steps of a Sequence, which it has under `key`; of any other stage, itself."""
    return stage.inners(key, most=MOST_STEPS) if stage.text("type") == "Sequence" else [stage]


def reject_unknown_keys(step: Fields) -> None:
    """Reject keys that we do not know: they may change the result."""
    for key, value in step.unread().items():
        step.fail(key, "no such key", shown(value))


def normalizer_name(tokenizer: Fields) -> str | None:  # Fields -> "NFC" or None
    """Name the normalizer of texts."""
    stage = tokenizer.inner("normalizer", None)
    if stage is None:
        return None
    names = [step.one_of("type", NORMALIZERS) for step in steps(stage, "normalizers")]
    return names[0] if names else None  # NFC once more changes nothing


def pre_tokenizer_name(tokenizer: Fields) -> str:  # Fields -> GGUF's name
    """Name the pre-tokenizer, which cuts a text into words."""
    found = tuple(map(cut, steps(tokenizer.inner("pre_tokenizer"), "pretokenizers")))
    if found not in STRUCTURES:
        known = ", ".join(dict.fromkeys(STRUCTURES.values()))
        tokenizer.fail("pre_tokenizer", f"that of {known}, to the letter", shown(found))
    return STRUCTURES[found]


def cut(step: Fields) -> tuple:  # Fields -> (kind, what makes it different from others of its kind)
    kind = step.one_of("type", ("ByteLevel", "Digits", "Split"))
    if kind == "ByteLevel":
        step.one_of("add_prefix_space", (False,), None)
        step.flag("trim_offsets", None)  # offsets are not tokens
        found = step.flag("use_regex", True)
    elif kind == "Digits":
        found = step.flag("individual_digits", False)
    else:
        step.one_of("behavior", ("Isolated",))
        step.one_of("invert", (False,), None)
        found = step.inner("pattern").text("Regex")
    reject_unknown_keys(step)
    return kind, found


def begin_token(tokenizer: Fields, ids: dict[str, int]) -> int | None:  # Fields, {text: id} -> id or None
    """Find the token that the post-processor puts in front of a text. ByteLevel moves offsets only; others are refused."""
    stage, begins = tokenizer.inner("post_processor", None), []
    for step in steps(stage, "processors") if stage else []:
        if step.one_of("type", ("ByteLevel", "TemplateProcessing")) == "TemplateProcessing":
            begins += in_front(step)
    if len(begins) > 1:
        tokenizer.fail("post_processor", ONE_IN_FRONT, f"{len(begins)} tokens")
    if begins and begins[0] not in ids.values():
        tokenizer.fail("post_processor", "a token of the vocabulary", f"id {shown(begins[0])}")
    return begins[0] if begins else None


def in_front(template: Fields) -> list[int]:  # Fields of a TemplateProcessing -> [id]
    *before, last = template.inners("single", most=MOST_STEPS) or [Fields({}, template.where, TokenizerError)]
    if "Sequence" not in last.values or len(before) > 1 or any("SpecialToken" not in piece.values for piece in before):
        order = [next(iter(piece.values), "nothing") for piece in (*before, last)]
        template.fail("single", ONE_IN_FRONT, shown(order))
    names = [piece.inner("SpecialToken").text("id") for piece in before]
    known = template.inner("special_tokens", {})
    return [i for name in names for i in known.inner(name).numbers("ids", whole=True)]
