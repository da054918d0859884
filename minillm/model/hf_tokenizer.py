"""A folder's tokenizer, translated into the metadata that a GGUF file would have.

tokenizer.json says how a text becomes ids (its stages: hf_pipeline.py), tokenizer_config.json names the tokens that begin and end
one and brings the chat template, generation_config.json has further ends. A token's id is its place in GGUF's list: so ids are
bounded before the list is made, and two tokens with one id are refused.

An explicit add_bos_token wins over the post-processor, as in llama.cpp's converter and for Llama in transformers 4; transformers
5 asks the post-processor alone. Where tokenizer_config.json is silent, as Llama 3's is, all agree.
"""

from pathlib import Path
from typing import Any

from minillm.errors import TokenizerError
from minillm.formats.expect import Fields, is_unicode, is_whole, shown
from minillm.formats.json_file import read_object
from minillm.model.hf_pipeline import begin_token, normalizer_name, pre_tokenizer_name, steps
from minillm.model.tokenizer.bpe import BYTE_TO_CHAR
from minillm.model.tokenizer.metadata import MOST_EOS, OWN
from minillm.model.tokenizer.vocabulary import CONTROL, NORMAL, UNUSED, USER_DEFINED

MOST_IDS = 1_000_000  # of a vocabulary; the largest in use have some 260,000
LARGEST_TEMPLATE = 1_000_000  # bytes
NEUTRAL = {"dropout": 0.0, "continuing_subword_prefix": "", "end_of_word_suffix": "", "byte_fallback": False}


def tokenizer_metadata(folder: Path, most: int = MOST_IDS) -> dict[str, Any]:
    """Convert to GGUF's metadata. most: how many ids the model has. TokenizerError for what would give other tokens."""
    tokenizer, options = read_fields(folder / "tokenizer.json"), read_fields(folder / "tokenizer_config.json")
    model = tokenizer.inner("model")
    if (kind := model.text("type", "none")) != "BPE" or model.flag("byte_fallback", False):
        found = kind if kind != "BPE" else "BPE with byte_fallback, which is SentencePiece's"
        what = f"only byte-level BPE is read from tokenizer.json, found {shown(found)}"
        raise TokenizerError(f"{folder}: {what}. Convert the model to GGUF.")
    pre, normalizer = pre_tokenizer_name(tokenizer), normalizer_name(tokenizer)
    for key, neutral in NEUTRAL.items():
        model.one_of(key, (neutral,), None)
    decoder = tokenizer.inner("decoder", None)
    for step in steps(decoder, "decoders") if decoder else []:
        step.one_of("type", ("ByteLevel",))
    if pre == "gpt-2":  # of a ByteLevel that stands alone, the library lets the option decide
        options.one_of("add_prefix_space", (False,), None)
    options.one_of("add_eos_token", (False,), None)

    ids, types = vocabulary(tokenizer, model, min(most, MOST_IDS), normalizer)
    tokens = [f"[unused {i}]" for i in range(len(types))]
    for text, i in ids.items():
        tokens[i] = text
    check_added(options, ids)
    bos, eos = (special_token(options, key, ids) for key in ("bos_token", "eos_token"))
    begins = begin_token(tokenizer, ids)
    if bos is not None and begins is not None and bos != begins:
        options.fail("bos_token", f"{shown(tokens[begins])}, which the post_processor puts in front", shown(tokens[bos]))
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges(model),
        "tokenizer.ggml.add_bos_token": options.flag("add_bos_token", begins is not None),
        "tokenizer.ggml.bos_token_id": begins if bos is None else bos,
        "tokenizer.ggml.eos_token_id": eos,
        OWN + "ignore_merges": model.flag("ignore_merges", False),
        OWN + "normalizer": normalizer,
        OWN + "eos_token_ids": eos_ids_of(folder, len(tokens)),
        "tokenizer.chat_template": chat_template(folder, options),
    }
    return {key: value for key, value in metadata.items() if value is not None}


def read_fields(path: Path, needed: bool = True) -> Fields:
    """Read a JSON object of the folder; an empty one where it may be absent and is."""
    if (values := read_object(path, TokenizerError)) is None and needed:
        hint = "A .gguf file is loaded by its own path."
        raise TokenizerError(f"{path.parent}: a model's folder must hold {path.name}, this one does not. {hint}")
    return Fields(values or {}, f"{path}: ", TokenizerError)


def vocabulary(  # -> {text: id}, [GGUF's type of each id]
    tokenizer: Fields, model: Fields, most: int, normalizer: str | None
) -> tuple[dict[str, int], list[int]]:
    """Collect the tokens of the model, and the added ones. Ids without a token, of which a few are usual, are unused."""
    ids = dict(model.inner("vocab").values)
    for text, i in ids.items():
        if not (is_whole(i) and 0 <= i < most and is_unicode(text)):
            model.fail(f"vocab[{shown(text)}]", f"a text with an id from 0 to {most - 1:,}", shown(i))
    texts, kinds = {i: text for text, i in ids.items()}, {}
    if len(texts) < len(ids):
        model.fail("vocab", "an id for each token", f"{len(ids):,} tokens with {len(texts):,} ids")
    for token in tokenizer.inners("added_tokens", []):
        text, i, special = token.text("content"), token.whole("id", high=most - 1), token.flag("special", False)
        for key in ("lstrip", "rstrip", "single_word"):
            token.one_of(key, (False,), None)
        if normalizer and token.flag("normalized", False) and not special:
            token.fail("normalized", f"false, beside the normalizer {normalizer}", "true")
        if not text or texts.get(i, text) != text or ids.get(text, i) != i:
            token.fail("content", "a text of its own under an id of its own", f"{shown(text)} under {i:,}, which are taken")
        ids[text], texts[i], kinds[i] = i, text, CONTROL if special else USER_DEFINED
    if not ids:
        model.fail("vocab", "at least one token", "none")
    if (unknown := model.text("unk_token", None)) and not all(char in ids for char in BYTE_TO_CHAR.values()):
        model.fail("unk_token", "null, where not every byte has a token", shown(unknown))
    return ids, [kinds.get(i, NORMAL if i in texts else UNUSED) for i in range(max(texts) + 1)]


def merges(model: Fields) -> list[str]:  # Fields -> ["left right"]
    """List the merges in the order of training; files have them as one string or as two."""
    pairs = model.items("merges")
    for i, pair in enumerate(pairs):
        parts = pair.split(" ") if isinstance(pair, str) else pair
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) and part for part in parts):
            model.fail(f"merges[{i}]", "two tokens", shown(pair))
    return [pair if isinstance(pair, str) else " ".join(pair) for pair in pairs]


# --- what stands beside tokenizer.json ------------------------------------------------------------------------------


def special_token(options: Fields, key: str, ids: dict[str, int]) -> int | None:  # -> id or None
    """Find the token that an option names, as text or as an object that holds it."""
    held = isinstance(options.values.get(key), dict)
    text = options.inner(key).text("content") if held else options.text(key, None)
    if text is not None and text not in ids:
        options.fail(key, "a token of tokenizer.json", shown(text))
    return ids.get(text)


def check_added(options: Fields, ids: dict[str, int]) -> None:
    """Check the added tokens that tokenizer_config.json lists again: transformers would add those missing in tokenizer.json."""
    listed = options.inner("added_tokens_decoder", {})
    for key in listed.values:
        text = listed.inner(key).text("content")
        if str(ids.get(text)) != key:
            listed.fail(key, "a token of tokenizer.json under its id there", shown(text))


def eos_ids_of(folder: Path, count: int) -> list[int] | None:  # path, int -> [id] or None
    """Read the ids that end a generation, from generation_config.json where there is one, else config.json: one, or a list."""
    path = folder / "generation_config.json"
    fields = read_fields(path if path.exists() else folder / "config.json", needed=False)
    key = "eos_token_id"
    ids = fields.numbers(key, whole=True) if isinstance(fields.values.get(key), list) else [fields.whole(key, None)]
    ids = [i for i in ids if i is not None]
    if len(ids) > MOST_EOS or any(not 0 <= i < count for i in ids):
        fields.fail(key, f"at most {MOST_EOS} ids from 0 to {count - 1:,}", shown(ids))
    return ids or None


def chat_template(folder: Path, options: Fields) -> str | None:  # -> Jinja source or None
    """Read the chat template, from its own file or an option: a text, or a list with names, of which the default is taken."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            if path.stat().st_size > LARGEST_TEMPLATE:
                raise TokenizerError(f"{path}: expected at most {LARGEST_TEMPLATE:,} bytes, found {path.stat().st_size:,}.")
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TokenizerError(f"{path}: cannot be read: {error}.") from None
    if not isinstance(options.values.get("chat_template"), list):
        return options.text("chat_template", None)
    named = {template.text("name"): template.text("template") for template in options.inners("chat_template", most=64)}
    if "default" not in named:
        options.fail("chat_template", "one that is called 'default' among several", shown([*named]))
    return named["default"]
