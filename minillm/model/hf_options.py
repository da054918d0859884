"""What stands beside tokenizer.json: tokens with a task, what ends a generation, the chat template.

    tokenizer_config.json       bos_token, eos_token and others, by their text; added tokens once more; a chat template
    generation_config.json      eos_token_id: one id or several
    chat_template.jinja         the template in a file of its own, which wins

A text is looked up among the tokens, an id is bounded by their number: what names no token is refused, or ignored where nothing
is computed from it. Source: transformers, tokenization_utils_base.py.
"""

from pathlib import Path

from minillm.errors import TokenizerError
from minillm.formats.expect import Fields, shown
from minillm.formats.json_file import read_object
from minillm.model.tokenizer.metadata import MOST_EOS

LARGEST_TEMPLATE = 1_000_000  # bytes


def read_fields(path: Path, needed: bool = True) -> Fields:
    """Read a JSON object of the folder; an empty one where it may be absent and is."""
    if (values := read_object(path, TokenizerError)) is None and needed:
        hint = "A .gguf file is loaded by its own path."
        raise TokenizerError(f"{path.parent}: a model's folder must hold {path.name}, this one does not. {hint}")
    return Fields(values or {}, f"{path}: ", TokenizerError)


def special_token(options: Fields, key: str, ids: dict[str, int], needed: bool = True) -> int | None:  # -> id or None
    """Find the token that an option names, as text or as an object that holds it. needed: one that is no token is refused."""
    held = isinstance(options.values.get(key), dict)
    text = options.inner(key).text("content") if held else options.text(key, None)
    if text is not None and text not in ids and needed:
        options.fail(key, "a token of tokenizer.json", shown(text))
    return None if text is None else ids.get(text)


def check_added(options: Fields, ids: dict[str, int]) -> None:
    """Check the added tokens that tokenizer_config.json lists again: transformers would add those missing in tokenizer.json."""
    listed = options.inner("added_tokens_decoder", {})
    for key in listed.values:
        text = listed.inner(key).text("content")
        if str(ids.get(text)) != key:
            listed.fail(key, "a token of tokenizer.json under its id there", shown(text))


def more_eos_ids(folder: Path, count: int, eos: int | None) -> list[int] | None:  # path, int, id -> [id] or None
    """Read what ends a generation beside eos, from generation_config.json or, without one, config.json: one id, or a list."""
    path = folder / "generation_config.json"
    fields = read_fields(path if path.exists() else folder / "config.json", needed=False)
    key = "eos_token_id"
    ids = fields.numbers(key, whole=True) if isinstance(fields.values.get(key), list) else [fields.whole(key, None)]
    ids = [i for i in ids if i is not None]
    if len(ids) > MOST_EOS or any(not 0 <= i < count for i in ids):
        fields.fail(key, f"at most {MOST_EOS} ids from 0 to {count - 1:,}", shown(ids))
    return [i for i in ids if i != eos] or None


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
