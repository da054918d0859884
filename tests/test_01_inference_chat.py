"""`minillm chat`: its commands, what it says about a model that cannot chat, and how it samples by default."""

import io
import sys
from types import SimpleNamespace

import pytest

from minillm.cli import chat, main
from minillm.llm import LLM
from minillm.model.defaults import USUAL
from minillm.model.random_model import random_model
from minillm.model.sampling import SamplingParams

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


class Talk:
    """In place of a Conversation: answers with what it was told, and how it was to sample."""

    made = []

    def __init__(self, llm, system, adapter):
        self.said, self.params = [], None
        Talk.made.append(self)

    def say(self, text, params, truncate):
        self.said.append(text)
        self.params, self.reused = params, 0
        self.last = SimpleNamespace(metrics={"prompt_tokens": 1, "new_tokens": 1, "ttft_s": None, "tpot_s": None})
        yield f"<{text}>"


@pytest.fixture
def talks(monkeypatch, capsys):
    """Run the command over a few lines: the conversations that were held, standard output, standard error, status."""

    def run(*lines, options=(), template=CHATML, recommended=None):
        llm = LLM(random_model())
        llm.tokenizer.chat = template and SimpleNamespace(source=template)
        monkeypatch.setattr("minillm.llm.Conversation", Talk)
        monkeypatch.setattr(chat, "load", lambda args: llm)
        if recommended is not None:
            monkeypatch.setattr("minillm.model.defaults.default_sampling", lambda model: recommended)
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(line + "\n" for line in lines)))
        Talk.made = []
        status = main(["chat", *options])
        out, err = capsys.readouterr()
        return Talk.made, out, err, status

    return run


def test_a_line_with_a_slash_is_a_command_and_never_reaches_the_model(talks):
    made, out, err, status = talks("/help", "hello", "/nonsense at all", "/", "more", "/exit", "too late")
    assert [talk.said for talk in made] == [["hello", "more"]] and status == 0
    assert out.split() == ["<hello>", "<more>"]
    assert "/nonsense is no command" in err and err.count("/reset") == 3, "/help and each mistake list what there is"
    assert all(f"{name:8} {does}" in err for name, does in chat.COMMANDS.items())


def test_reset_begins_another_conversation(talks):
    made, *_ = talks("a", "b", "/reset", "c")
    assert [talk.said for talk in made] == [["a", "b"], ["c"]]


def test_with_a_space_in_front_it_goes_to_the_model(talks):
    made, *_ = talks(" /etc/passwd, what is it?", "", "after the empty line")
    assert made[0].said == ["/etc/passwd, what is it?"]


def test_a_model_that_tells_stories_says_that_it_cannot_chat(talks):
    stories = "{{ bos_token }}{% for m in messages %}{{ m['content'] | trim }}{% endfor %}"
    made, _, err, status = talks("Once", template=stories)
    assert status == 0 and made[0].said == ["Once"], "it goes on with the text all the same"
    (said,) = [line for line in err.splitlines() if "cannot chat" in line]
    assert said.startswith("tiny tells stories and cannot chat") and "minillm download smollm2-135m" in said
    assert "cannot chat" not in talks("Hello")[2]


def test_the_tiny_model_that_comes_along_is_one_of_those(capsys):
    llm = LLM("tiny", backend="numpy")
    chat.cannot_chat("tiny", llm.tokenizer.chat)
    assert "cannot chat" in capsys.readouterr().err


def test_a_model_without_a_template_is_refused_before_a_word_is_typed(talks):
    made, out, err, status = talks("hello", template=None, options=["--model", "some.gguf"])
    assert (made, out, status) == ([], "", 2)
    assert "some.gguf cannot chat: its file has no chat template" in err and "minillm download smollm2-135m" in err


def test_it_samples_as_the_model_recommends_else_as_usual_and_options_win(talks):
    def params(*options, **given):
        return talks("hi", options=options, **given)[0][0].params

    assert params() == SamplingParams(max_tokens=512, **USUAL)
    assert params().temperature > 0, "greedy loops"
    model = {"temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.1}
    assert params(recommended=model) == SamplingParams(max_tokens=512, **model)
    assert params("--top-p", "0.5", "--seed", "3", recommended=model) == SamplingParams(512, **model | {"top_p": 0.5}, seed=3)
    assert params("--temperature", "0", recommended=model) == SamplingParams(max_tokens=512), "greedy is greedy"


def test_a_knob_that_makes_no_sense_is_refused_before_the_model_is_loaded(monkeypatch, capsys):
    monkeypatch.setattr(chat, "load", lambda args: pytest.fail("loaded"))
    assert main(["chat", "--temperature", "-1"]) == 2
    assert "temperature must be at least 0, found -1.0" in capsys.readouterr().err
