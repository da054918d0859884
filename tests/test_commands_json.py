"""With --json, standard output is one JSON object and nothing else, for every command that has it: `minillm … --json | jq`."""

import json

import pytest
from command_run import BENCH, SLOW, what
from test_cli_hostile import COMMANDS
from test_commands import folder, run  # noqa: F401 (fixtures)

LINES = {  # command -> command lines that the runner knows to make small
    ("generate",): ["minillm generate PROMPT --json"],
    ("inspect",): ["minillm inspect FILE --json"],
    ("convert",): ["minillm convert FOLDER OUT.gguf --json", "minillm convert IN.gguf FOLDER --json"],
    ("quantize",): [
        "minillm quantize IN OUT --type T --json", "minillm quantize IN OUT --type T --imatrix FILE --json",
        "minillm quantize IN OUT --method rtn --json", "minillm quantize IN OUT --method gptq --calibration FILE --json",
    ],
    ("imatrix",): ["minillm imatrix --model M --text FILE --out FILE --json"],
    ("perplexity",): ["minillm perplexity --model M --text FILE --json", "minillm perplexity --against M --text FILE --json"],
    ("backends",): ["minillm backends --json"],
    ("tour",): ["minillm tour --json"],
    ("loadtest",): ["minillm loadtest --url URL --out DIR --json"],
    ("train",): ["minillm train --config data/models/tiny.toml --json"],
    ("course", "kills"): ["minillm course kills 03.1 --json"],
}
LINES |= {("bench", kind): [f"minillm bench {kind} --json"] for kind in BENCH}
LINES["bench", "model"] += ["minillm bench --batch 1,2 --json"]
ELSEWHERE = {("serve",): "its object comes while it runs: tests/test_06_continuous_batching_served.py reads it"}


def test_every_command_with_json_is_tried():
    having = {words for words, parser in COMMANDS.items() if "--json" in parser._option_string_actions}
    assert having == LINES.keys() | ELSEWHERE.keys()


@pytest.mark.parametrize(
    "text",
    [pytest.param(text, marks=[pytest.mark.slow] * (what(text) in SLOW)) for texts in LINES.values() for text in texts],
)
def test_standard_output_is_one_json_object(run, text):  # noqa: F811
    status, out, err = run(text)
    assert status == 0 and "Traceback" not in err
    assert isinstance(json.loads(out), dict) and out.count("\n") == 1
