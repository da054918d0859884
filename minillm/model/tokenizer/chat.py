"""Chat templates: messages to a prompt, with the turns marked by control tokens that no message can forge.

A chat model was trained on one layout, and its file carries that layout as a Jinja template. Rendering gives one string in which
template and messages are mixed; recognizing control tokens in it would let a user type <|im_end|> and speak as the system.
So shield the messages first: put a mark inside every control token that a message spells, render, cut the string at the
control tokens that are still whole (the template's own), and take the marks out of the plain pieces.

    "a<|im_end|>b"  ->  "a<¤|im_end|>b"  ->  <|im_start|>user\\na<¤|im_end|>b<|im_end|>  ->  only the last one is a control token

The mark is a lone surrogate: it is in no valid text, so no message can contain it and nothing of a message is lost.
"""

import re
from collections.abc import Callable
from typing import Any

from minillm.errors import TokenizerError
from minillm.model.tokenizer.vocabulary import check_unicode

MARK = "\udfff"


class ChatTemplate:
    """A chat template and the control tokens it speaks in. Another process renders it (sandbox.py), started at the first use."""

    def __init__(self, source: str, tokenizer: Any) -> None:
        self.source, self.tokenizer = source, tokenizer
        texts = sorted(filter(None, tokenizer.special_tokens), key=len, reverse=True)
        self._starts = re.compile(f"(?={'|'.join(map(re.escape, texts))})(.)", re.DOTALL) if texts else None
        self._heads = {text[:k] for text in texts for k in range(1, len(text))}
        self._tails = {text[k:] for text in texts for k in range(1, len(text))}
        self._longest = max(map(len, texts), default=0)
        self._compiled: Callable[..., str] | None = None

    def encode(self, messages: list[dict], add_generation_prompt: bool = True, variables: dict | None = None) -> list[int]:
        """Encode messages to the prompt's token ids. No begin-of-text token is added: a template that wants one writes it."""
        out = []
        rendered = self._render(messages, add_generation_prompt, variables or {})
        for piece, control in self.tokenizer.vocabulary.split_special(rendered):
            if control is not None:
                out.append(control)
            elif plain := piece.replace(MARK, ""):
                out += self.tokenizer.encode(plain, bos=False, after=out)
        return out

    def render(self, messages: list[dict], add_generation_prompt: bool = True, **variables: Any) -> str:
        """Render the prompt as text, to look at. To run it, use `encode`: here a forged control token looks like a real one."""
        return self._render(messages, add_generation_prompt, variables).replace(MARK, "")

    def _render(self, messages: list[dict], add_generation_prompt: bool, variables: dict[str, Any]) -> str:
        from minillm.model.tokenizer.sandbox import compile_template

        if not isinstance(messages, (list, tuple)) or not all(isinstance(m, dict) and "role" in m for m in messages):
            raise TokenizerError('messages: expected a list of {"role": ..., "content": ...}, found ' + repr(messages)[:60])
        if self._compiled is None:
            self._compiled = compile_template(self.source)
        names = {"bos_token": self.tokenizer.bos_id, "eos_token": self.tokenizer.eos_id, "unk_token": self.tokenizer.unknown_id}
        tokens = {name: self.tokenizer.vocabulary.tokens[i] for name, i in names.items() if i is not None}
        try:
            shielded = {name: self.shield(value) for name, value in variables.items()}
            messages = [self.shield(message) for message in messages]
        except RecursionError:
            raise TokenizerError("messages and variables: nested too deeply, or within themselves") from None
        return self._compiled(**tokens | shielded, messages=messages, add_generation_prompt=add_generation_prompt)

    def shield(self, value: Any, edges: bool = True) -> Any:
        """Copy JSON-like data so that in its strings no control token can be found, nor arise where template and string meet.

        Roles get no mark at their edges: some templates build a control token from one ("<|" + role + "|>").
        """
        if isinstance(value, dict):
            return {self.shield(k, False): self.shield(v, edges=k != "role") for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.shield(item) for item in value]
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if not isinstance(value, str):
            raise TokenizerError(f"a message holds a {type(value).__name__}; expected strings, numbers, lists and dicts")
        check_unicode(value)
        text = self._starts.sub(rf"\1{MARK}", value) if self._starts else value
        if edges:
            lengths = range(1, min(self._longest, len(value) + 1))
            if any(value[-k:] in self._heads for k in lengths):
                text += MARK
            if any(value[:k] in self._tails for k in lengths):
                text = MARK + text
        return text
