"""What a client may ask: bodies of /v1/completions and /v1/chat/completions, read field by field and checked.

    JSON object ─▶ parse_completion or parse_chat ─▶ Job, or an ApiError that names the field

A client must never believe that a parameter had an effect when it had none. So an unknown field is an error that names it. A
field that we know and do not support (tools, suffix) passes only with the value that means "nothing": many clients send
those. A field without influence on an answer (metadata, store=false) passes. Names and ranges are those of OpenAI's API
reference; top_k, min_p, repetition_penalty, ignore_eos, stop_token_ids, skip_special_tokens, min_tokens, prompt_logprobs and
priority are vLLM's additions to it.
Defaults are the model's (Served.sampling, from the model's file), else OpenAI's.
"""

from dataclasses import dataclass, replace
from typing import Any

from minillm.formats.expect import is_whole, shown
from minillm.model.defaults import merge_defaults
from minillm.model.generate import EMPTY
from minillm.model.params import SamplingParams
from minillm.server.fields import ANY, Body, check_text
from minillm.server.wire import ApiError

MAX_ANSWERS = 256  # prompts × n in one call
MAX_LOGPROBS = 20
MAX_NAME = 512  # characters of `user`
OPENAI = {"temperature": 1.0}  # where neither client nor model says; all else is off
NEUTRAL = {  # fields that would change the answer, and the values that ask for no change (None always does)
    "best_of": (1,), "echo": (False,), "function_call": ("none", "auto"), "functions": ([],), "modalities": (["text"],),
    "parallel_tool_calls": (True, False), "response_format": ({"type": "text"},), "service_tier": ("auto", "default"),
    "store": (False,), "suffix": ("",), "tool_choice": ("none", "auto"), "tools": ([],), "verbosity": ("medium",), "audio": (),
    "reasoning_effort": (), "web_search_options": (), "metadata": ANY, "prediction": ANY, "prompt_cache_key": ANY,
    "safety_identifier": ANY,
}  # fmt: skip
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


@dataclass(frozen=True, slots=True)
class Job:
    """A checked request. prompts: text or token ids, each its own; for a chat one list of messages.

    max_tokens: None where the client left it open, 0 where an echo of the prompt is all it wants. params: everything else about
    sampling. prompt_scores: whether the answer carries prompt_logprobs, vLLM's field.
    """

    prompts: list
    params: SamplingParams
    max_tokens: int | None
    n: int
    user: str
    priority: int
    stream: bool
    include_usage: bool
    usage_each: bool
    chat: bool
    adapter: str | None = None  # its name: the model field may say it in place of the model's
    echo: bool = False
    prompt_scores: bool = False


def parse_completion(fields: Any, served: Any) -> Job:  # JSON, app.Served
    body = Body(fields)
    logprobs, echo = body.whole("logprobs", 0, MAX_LOGPROBS), body.flag("echo")
    max_tokens = body.whole("max_tokens", 0 if echo else 1, 2**31)
    return make_job(body, served, parse_prompts(body.take("prompt"), served), logprobs, max_tokens, chat=False, echo=echo)


def parse_chat(fields: Any, served: Any) -> Job:  # JSON, app.Served
    body = Body(fields)
    wanted, top = body.flag("logprobs"), body.whole("top_logprobs", 0, MAX_LOGPROBS)
    if top is not None and not wanted:
        raise ApiError("top_logprobs needs logprobs to be true.", "top_logprobs")
    limits = {name: body.whole(name, 1, 2**31) for name in ("max_tokens", "max_completion_tokens")}
    given = {limit for limit in limits.values() if limit is not None}
    if len(given) > 1:
        raise ApiError(f"max_tokens and max_completion_tokens differ: {min(given):,} and {max(given):,}.", "max_tokens")
    chat = parse_messages(body.take("messages"))
    return make_job(body, served, [chat], (top or 0) if wanted else None, min(given, default=None), chat=True)


def make_job(
    body: Body, served: Any, asked: list, logprobs: int | None, max_tokens: int | None, chat: bool, echo: bool = False
) -> Job:
    """Parse the fields that both endpoints share."""
    if (model := body.checked("model", lambda v: isinstance(v, str), "text", served.name)) not in served.names:
        raise served.unknown(shown(model))
    n = body.whole("n", 1, MAX_ANSWERS // len(asked), 1)
    seed = body.whole("seed", -(2**63), 2**63 - 1)
    scores, least = body.whole("prompt_logprobs", 0, MAX_LOGPROBS), body.whole("min_tokens", 0, 2**31, 0)
    check_least(least, max_tokens)
    params = SamplingParams(
        max_tokens=max(SamplingParams().max_tokens, least),  # until the prompt is known: endpoint.py
        min_tokens=least,
        logit_bias=body.bias(served.vocab_size),
        prompt_logprobs=logprobs if echo and scores is None else scores,
        **merge_defaults(OPENAI | served.sampling, parse_sampling(body)),
        seed=None if seed is None else seed % 2**64,
        stop=body.stops(),
        stop_token_ids=body.token_ids("stop_token_ids", served.vocab_size),
        logprobs=logprobs,
        ignore_eos=body.flag("ignore_eos"),
        skip_special_tokens=body.flag("skip_special_tokens", True),
    )
    if (priority := body.whole("priority", -1000, 1000, 0)) and not served.by_priority:
        raise ApiError(f"priority counts only where the server's order is 'priority'; found {priority}.", "priority")
    user, stream = body.text("user", MAX_NAME), body.flag("stream")
    if "stream_options" in body.fields and body.fields["stream_options"] is not None and not stream:
        raise ApiError("stream_options needs stream to be true.", "stream_options")
    if scores is not None and stream:
        message = "prompt_logprobs come with a whole answer alone: leave stream out, or send echo with logprobs."
        raise ApiError(message, "prompt_logprobs")
    include_usage, usage_each = body.options()
    body.finish(NEUTRAL)
    adapter = None if model == served.name else model
    job = Job(asked, params, max_tokens, n, user, priority, stream, include_usage, usage_each, chat, adapter)
    return replace(job, echo=echo, prompt_scores=scores is not None)


def check_least(least: int, max_tokens: int | None) -> None:
    if max_tokens is not None and least > max_tokens:
        raise ApiError(f"min_tokens must be at most max_tokens = {max_tokens:,}, found {least:,}.", "min_tokens")


def parse_sampling(body: Body) -> dict[str, Any]:  # of what the client says
    """Parse the sampling fields that the client gave."""
    found = {
        "temperature": body.number("temperature", 0, 2, None),
        "top_k": body.whole("top_k", -1, 2**31),
        "top_p": body.number("top_p", 1e-6, 1, None),
        "min_p": body.number("min_p", 0, 1, None),
        "repetition_penalty": body.number("repetition_penalty", 0.01, 100, None),
        "presence_penalty": body.number("presence_penalty", -2, 2, None),
        "frequency_penalty": body.number("frequency_penalty", -2, 2, None),
    }
    if found["top_k"] == -1:  # vLLM's way to switch it off
        found["top_k"] = 0
    return {name: value for name, value in found.items() if value is not None}


def parse_prompts(value: Any, served: Any) -> list:  # [text or token ids]
    """Parse prompts in OpenAI's four forms: text, texts, token ids, lists of token ids."""
    wanted = "text, a list of texts, token ids, or a list of lists of token ids"
    several = value if isinstance(value, list) and value and not is_whole(value[0]) else [value]
    if len(several) > MAX_ANSWERS:
        raise ApiError(f"prompt: at most {MAX_ANSWERS} in one call, found {len(several):,}.", "prompt")
    for prompt in several:
        if not isinstance(prompt, str | list) or type(prompt) is not type(several[0]):
            raise ApiError(f"prompt must be {wanted}, found {shown(value)}.", "prompt")
        if isinstance(prompt, str):
            check_text(prompt, "prompt")
        elif not prompt:
            raise ApiError(f"prompt: {EMPTY}.", "prompt")
        elif wrong := [i for i in prompt if not is_whole(i) or not 0 <= i < served.vocab_size]:
            wanted = f"a whole number from 0 to {served.vocab_size - 1:,}"
            raise ApiError(f"prompt: a token id is {wanted}, found {shown(wrong[0])}.", "prompt")
    return several


def parse_messages(value: Any) -> list[dict[str, str]]:
    """Parse a conversation. Content is text, or parts of type text, which are put on lines of their own, as in vLLM."""
    if not isinstance(value, list) or not value:
        raise ApiError(f'messages must be a list of {{"role", "content"}} with at least one, found {shown(value)}.', "messages")
    return [parse_message(m, f"messages[{i}]") for i, m in enumerate(value)]


def parse_message(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ApiError(f"{where} must be an object, found {shown(value)}.", where)
    if more := [key for key in value if key not in ("role", "content") and value[key] not in (None, [])]:
        message = f"{where}: {shown(more[0])} is not supported; a message has a role and a content."
        raise ApiError(message, where, "unsupported_parameter")
    role, content = value.get("role"), value.get("content")
    if not isinstance(role, str) or role not in ROLES:
        raise ApiError(f"{where}.role must be one of {', '.join(ROLES)}, found {shown(role)}.", f"{where}.role")
    if isinstance(content, list):
        parts = [p for p in content if isinstance(p, dict) and p.get("type") == "text" and isinstance(p.get("text"), str)]
        if len(parts) < len(content) or not content:
            raise ApiError(f"{where}.content: every part must be of type text, found {shown(content)}.", f"{where}.content")
        content = "\n".join(p["text"] for p in parts)
    if not isinstance(content, str):
        raise ApiError(f"{where}.content must be text or a list of text parts, found {shown(content)}.", f"{where}.content")
    return {"role": ROLES[role], "content": check_text(content, f"{where}.content")}
