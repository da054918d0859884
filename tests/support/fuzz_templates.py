"""Chat templates made at random (template_grammar.py): each renders, or is refused with a TokenizerError, within bounds.

    python tests/support/fuzz_templates.py --n 20000 --seed 1

For each template: the outcome, the seconds that the caller waited, and the seconds of processor time here and in the process that
renders (a wait says little on a busy machine). One that raises anything else, or takes more than a second of processor time, or
after which a process has had more than 300 MB, is printed with its number; the exit status says whether there was one. Most
constructs are cheap, or the deadlines would add up to hours. Control-C ends it with what was found so far.
"""

import argparse
import os
import random
import resource
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from template_grammar import Grammar

from minillm.errors import TokenizerError
from minillm.model.tokenizer import Tokenizer, sandbox
from minillm.model.tokenizer.bpe import BYTE_TO_CHAR
from minillm.model.tokenizer.chat import ChatTemplate

BOUNDS = 20.0, 1.0, 300.0  # seconds, processor seconds, MB


def megabytes():
    """The most that this process, the renderer, or one that has ended, has had so far.

    For itself from /proc: getrusage goes on counting from the peak of the process that started this one.
    """
    worker = sandbox.RENDERER.process
    ids = [os.getpid(), worker.pid] if worker else [os.getpid()]
    peaks = [text.split("VmHWM:")[1].split()[0] for i in ids if "VmHWM:" in (text := Path(f"/proc/{i}/status").read_text())]
    return max(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3, *(int(peak) / 1e3 for peak in peaks))


def processor_seconds():
    """Of this process, the renderers that have ended, and the one that lives."""
    own, ended = time.process_time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    worker = sandbox.RENDERER.process
    fields = Path(f"/proc/{worker.pid}/stat").read_text().rsplit(")", 1)[1].split() if worker else [0] * 20
    return own + ended.ru_utime + ended.ru_stime + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def one(template, tokenizer):  # -> outcome, [seconds, processor seconds, MB]
    """Render one template as a chat request does."""
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " <|im_end|> é\n"},
        {"role": "assistant", "content": None},
    ]
    tools = [{"name": "weather", "parameters": {"city": "string", "days": [1, 2.5, None, True]}}]
    begin, used = time.perf_counter(), processor_seconds()
    try:
        ChatTemplate(template, tokenizer).render(messages, tools=tools)
        outcome = "rendered"
    except TokenizerError as error:
        said = str(error)
        assert said.startswith("chat template") and "\n" not in said and len(said) < 300, said
        ends = ("more than 256 MiB", "seconds", "more than 4,000,000")
        outcome = next((f"refused: {end}" for end in ends if said.endswith(end)), "refused: by Jinja, in a line")
        outcome = "refused: its process crashed" if "with status" in said else outcome
    return outcome, [time.perf_counter() - begin, processor_seconds() - used, megabytes()]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first, to share the work")
    parser.add_argument("--deadline", type=float, default=0.25, help="seconds; more on a busy machine")
    parser.add_argument("--huge", type=float, default=0.02, help="how often a construct asks for too much")
    args = parser.parse_args(argv)
    sandbox.SECONDS = args.deadline
    tokenizer = Tokenizer(
        [*BYTE_TO_CHAR.values(), "<|im_start|>", "<|im_end|>"], [], token_types=[1] * 256 + [3, 3], bos_id=256, eos_id=257
    )
    table, worst, faults, begin = Counter(), Counter(), 0, time.perf_counter()
    with suppress(KeyboardInterrupt):
        for number in range(args.first, args.first + args.n):
            template = Grammar(random.Random(f"{args.seed}:{number}"), args.huge).template()
            try:
                outcome, figures = one(template, tokenizer)
            except Exception as error:
                outcome, figures = f"FAULT: {type(error).__name__}: {error}", [0] * 3
            table[outcome] += 1
            for k, value in enumerate(figures):
                worst[outcome, k] = max(worst[outcome, k], value)
            if "crashed" in outcome or "FAULT" in outcome or any(f > b for f, b in zip(figures, BOUNDS, strict=True)):
                faults += 1
                print(f"--- number {number}: {outcome}, {figures}\n{template[:500]}", flush=True)
    print(f"{'templates':>9}  {'longest s':>9}  {'of processor':>12}  outcome")
    for outcome, count in table.most_common():
        print(f"{count:9,}  {worst[outcome, 0]:9.2f}  {worst[outcome, 1]:12.2f}  {outcome}")
    took = time.perf_counter() - begin
    print(f"{table.total():9,}  in {took:,.0f} s, at most {megabytes():.0f} MB, {faults:,} outside the bounds")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
