"""Templates as the families of models carry them, and templates made at random.

tests/golden/chat_templates.json was recorded from transformers by tests/golden/record_chat_templates.py.
"""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from minillm.model.tokenizer import Tokenizer
from minillm.model.tokenizer.bpe import BYTE_TO_CHAR

HERE = Path(__file__).parent
RECORDED = json.loads((HERE / "golden" / "chat_templates.json").read_text())


@cache
def family(name):
    tokens = [*BYTE_TO_CHAR.values(), "<s>", "</s>", "<|im_end|>"]
    types = [1] * 256 + [3] * 3
    return Tokenizer(tokens, [], token_types=types, bos_id=256, eos_id=257, chat_template=RECORDED["templates"][name])


@pytest.mark.parametrize("case", RECORDED["cases"], ids=lambda case: f"{case['name']} {case['prompt']}")
def test_a_familys_template_renders_as_transformers_renders_it(case):
    t = family(case["name"].split()[0])
    assert t.chat.render(case["messages"], case["prompt"], **case["variables"]) == case["text"]
    assert t.apply_chat_template(case["messages"], case["prompt"], **case["variables"]) == t.encode(case["text"], special=True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures by /proc")
def test_templates_made_at_random_render_or_are_refused_within_bounds():
    """20,000 of them by hand: python tests/support/fuzz_templates.py."""
    command = [sys.executable, str(HERE / "support" / "fuzz_templates.py"), "--n", "150", "--seed", "7", "--deadline", "0.9"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=HERE.parent)
    assert done.returncode == 0 and not done.stderr, done.stdout[-3000:] + done.stderr
    counts = {line.split(maxsplit=3)[-1]: int(line.split()[0]) for line in done.stdout.splitlines()[1:-1]}
    assert counts["rendered"] > 40 and counts["refused: by Jinja, in a line"] > 20, done.stdout
