"""Prompts as tokens, for clients that count them: /tokenize, /detokenize, /tokenizer_info, and the echo of a prompt.

    POST /tokenize    {"prompt": text} or {"messages": [...]}     {"tokens": ids, "count": n, "max_model_len": m, "token_strs"}
    POST /detokenize  {"tokens": ids}                             {"prompt": text}
    GET  /tokenizer_info                                          names of the special tokens, the chat template

Paths, fields and answers are those of vLLM's server. The ids of a text are those that /v1/completions makes of it, so a control
token that is spelled in a text stays text (tokenizer/chat.py says why).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from minillm.formats.expect import is_whole, shown
from minillm.model.tokenizer import Tokenizer
from minillm.server.fields import ANY, Body, check_text
from minillm.server.guards import read_json
from minillm.server.protocol import parse_messages
from minillm.server.wire import ApiError, Echo, encode

NEUTRAL = {"continue_final_message": (False,), "tools": ([],), "chat_template": (), "chat_template_kwargs": ({},)}


def make_echo(tokenizer: Tokenizer, prompt: str | list[int], ids: list[int], scored: bool) -> Echo:
    """Make the echo of a prompt: its own text, or that of its ids, control tokens included; and where in it each token begins."""
    stream, pieces = tokenizer.stream(), [0]
    decoded = ""
    for token in ids:
        decoded += stream.push(token)
        pieces.append(len(decoded))
    decoded += stream.flush()
    text = prompt if isinstance(prompt, str) else decoded
    shift = max(0, len(decoded) - len(text))  # a begin-of-text token that the text does not spell
    return Echo(text, ids, [max(0, at - shift) for at in pieces[:-1]], scored)


def parse_tokenize(fields: Any, served: Any) -> tuple[Callable[[], list[int]], str | list, bool]:
    """Parse a body of /tokenize -> a function that makes the ids, what it makes them of, and whether their names are wanted."""
    body, tokenizer = Body(fields), served.tokenizer
    check_model(body, served)
    named = body.flag("return_token_strs")
    if body.fields.get("messages") is not None:
        messages = parse_messages(body.take("messages"))
        prompt = body.flag("add_generation_prompt", True)
        body.finish(NEUTRAL | {"add_special_tokens": (False,), "add_generation_prompt": ANY})
        return partial(tokenizer.apply_chat_template, messages, prompt), messages, named
    text = body.checked("prompt", lambda v: isinstance(v, str), "text (or give messages, a conversation)", None)
    if text is None:
        raise ApiError("prompt is missing: give a text, or messages.", "prompt")
    special = body.flag("add_special_tokens", True)
    body.finish({})
    return partial(tokenizer.encode, check_text(text, "prompt"), bos=None if special else False), text, named


def parse_detokenize(fields: Any, served: Any) -> list[int]:
    """Parse a body of /detokenize."""
    body = Body(fields)
    check_model(body, served)
    ids = body.checked("tokens", lambda v: isinstance(v, list), "a list of token ids", None)
    if ids is None:
        raise ApiError("tokens is missing: give a list of token ids.", "tokens")
    body.finish({})
    if wrong := [i for i in ids if not is_whole(i) or not 0 <= i < served.vocab_size]:
        wanted = f"a whole number from 0 to {served.vocab_size - 1:,}"
        raise ApiError(f"tokens: a token id is {wanted}, found {shown(wrong[0])}.", "tokens")
    return ids


def check_model(body: Body, served: Any) -> None:
    if (model := body.checked("model", lambda v: isinstance(v, str), "text", served.name)) not in served.names:
        raise served.unknown(shown(model))


class TokenEndpoints:
    """The endpoints; front: app.Frontend, which has a thread for tokenizing."""

    def __init__(self, front: Any) -> None:
        self.front = front

    async def tokenize(self, request: Request) -> Response:
        served = self.front.served
        make, source, named = parse_tokenize(await self.read(request), served)
        self.front.check_length(source)
        ids = await self.front.in_thread(make)
        names = [served.tokenizer.vocabulary.tokens[i] for i in ids] if named else None
        return answer({"count": len(ids), "max_model_len": served.max_length, "tokens": ids, "token_strs": names})

    async def detokenize(self, request: Request) -> Response:
        served = self.front.served
        ids = parse_detokenize(await self.read(request), served)
        return answer({"prompt": await self.front.in_thread(partial(served.tokenizer.decode, ids))})

    async def info(self, request: Request) -> Response:
        served, tokenizer = self.front.served, self.front.served.tokenizer
        ids = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id, "unk_token": tokenizer.unknown_id}
        names = {name: None if i is None else tokenizer.vocabulary.tokens[i] for name, i in ids.items()}
        template = tokenizer.chat.source if tokenizer.chat else None
        kind = {"tokenizer_class": type(tokenizer.model).__name__, "model_max_length": served.max_length}
        return answer(kind | names | {"add_bos_token": tokenizer.add_bos, "chat_template": template})

    async def read(self, request: Request) -> Any:
        try:
            return await read_json(request, self.front.options)
        except ClientDisconnect:
            raise ApiError("the client left before its body was complete.") from None


def answer(values: dict) -> Response:
    return Response(encode(values), media_type="application/json")
