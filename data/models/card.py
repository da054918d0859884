"""The model card, written from figures that are measured here: README.md and figures.json beside this file.

python data/models/card.py --run RUN/tiny --run RUN/tiny-draft     take models over from `minillm train`, measure, write
python data/models/card.py                                        measure again, write
python data/models/card.py --check                                measure again, compare, write nothing
"""

import argparse
import csv
import hashlib
import json
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
CORPUS = HERE.parent / "corpus" / "stories.txt.xz"
NAMES = ("tiny", "tiny-draft")
HELD_OUT = 0.03
CLOSE = 0.02  # relative: rounding on another processor may turn one token, and with it the rest of that text


def take(folder):  # a run's folder -> name, {what: number}
    """Copy model, configuration and curve of a run that has ended; sum up its curve."""
    from minillm.training.config import read

    config = read(folder / "config.toml")
    name = config.model.name
    shutil.copyfile(folder / "model.gguf", HERE / f"{name}.gguf")
    text = (folder / "config.toml").read_text()
    text = text.replace(json.dumps(config.run.out), json.dumps(f"runs/{name}"))
    text = text.replace(json.dumps(config.data.corpus), json.dumps("data/corpus/stories.txt.xz"))
    if config.data.tokenizer != "bpe":
        text = text.replace(json.dumps(config.data.tokenizer), json.dumps("data/models/tiny.gguf"))
    (HERE / f"{name}.toml").write_text(text)
    shutil.copyfile(folder / "loss.png", HERE / f"{name}_loss.png")
    with open(folder / "loss.csv") as file:
        rows = list(csv.DictReader(file))
    tokens, seconds = (sum(float(r[key]) for r in rows) for key in ("tokens", "seconds"))
    last = rows[-1]
    return name, {
        "steps": int(last["step"]),
        "tokens": int(tokens),
        "seconds": round(seconds),
        "loss": round(sum(float(r["loss"]) for r in rows[-50:]) / len(rows[-50:]), 4),
        "held_out_loss": round(float(last["held_out_loss"]), 4),
    }


def measure():  # -> {what: number}
    """All that can be measured from the files alone."""
    from minillm import LLM, SamplingParams
    from minillm.bench import pair
    from minillm.training.data import read_corpus, split

    target, draft = (LLM(str(HERE / f"{name}.gguf")) for name in NAMES)
    _, held_out = split(read_corpus(CORPUS), "<|endoftext|>", HELD_OUT)
    begin = [target.tokenizer.bos_id]
    samples = [
        target.generate(begin, SamplingParams(temperature=0.7, max_tokens=250, seed=seed)).text.strip() for seed in range(10)
    ]
    files = {n: (HERE / f"{n}.gguf").read_bytes() for n in NAMES}
    about = {n: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for n, data in files.items()}
    return {"files": about, "pair": pair.run(target, draft, held_out), "samples": samples}


CARD = """# tiny and tiny-draft

Two small story tellers with one tokenizer, trained by `minillm train` on the corpus beside them; this page is written by
`data/models/card.py` from `figures.json`. They exist so that every command, lesson and test runs with nothing downloaded, and
so that there is a draft for a target. Both are Llama models in F16; llama.cpp runs them.

| model | parameters | file | steps | tokens seen | training, 2 cores | perplexity, held out |
|---|---|---|---|---|---|---|
{rows}

Perplexity is per token, over {documents} held-out stories ({held_out:.0%}, chosen by their hash).

**Acceptance** of tiny-draft's tokens by tiny, γ = {gamma}, from the beginnings of {prompts} held-out stories
(`minillm bench pair`):

| | accepted of those looked at | tokens a look | looked at |
|---|---|---|---|
{rates}

**Data.** {stories:,} stories of {words:,} words ({different_words:,} different ones) that SmolLM2-135M-Instruct (Apache-2.0)
ended sentence by sentence: see `data/corpus/`. Made by one small model, so they are grammatical, simple, much alike, and often
absurd. Nothing in them is true, and no person is meant.

**Made by** `minillm train --config data/models/tiny.toml`, then `tiny-draft.toml`; curves: `tiny_loss.png`,
`tiny-draft_loss.png`. **Not for** anything but learning, testing and measuring: they know no facts and follow no instruction.

## Ten samples, unselected

Seeds 0 to 9, temperature 0.7, from the beginning of a text, at most 250 tokens.

{samples}
"""


def card(figures):  # -> Markdown
    """The text around the figures."""
    pair, corpus = figures["pair"], json.loads((CORPUS.parent / "statistics.json").read_text())["stories"]
    rows = []
    for name in NAMES:
        m, f, t = pair["models"][name], figures["files"][name], figures["training"][name]
        rows.append(
            f"| `{name}` | {m['parameters']:,} | {f['bytes'] / 1e6:.2f} MB | {t['steps']:,} | {t['tokens'] / 1e6:.1f} M "
            f"| {t['seconds'] / 60:.0f} min | {m['perplexity']:.2f} |"
        )
    rates = []
    for t, r in pair["acceptance_at_temperature"].items():
        how = "greedy" if t == "0" else f"temperature {t}"
        rates.append(f"| {how} | {r['rate']:.1%} | {r['tokens_per_look']:.2f} | {r['looked_at']:,} |")
    samples = "\n".join(f"{i}. {text}" for i, text in enumerate(figures["samples"]))
    lists = {"rows": "\n".join(rows), "rates": "\n".join(rates), "samples": samples}
    return CARD.format(**pair, **corpus, **lists, held_out=HELD_OUT)


def differences(then, now, where=""):  # -> ["where: then, now"]
    """Numbers that are not close; samples are not compared."""
    if isinstance(then, dict):
        return [d for key in then if key != "samples" for d in differences(then[key], now.get(key), f"{where}/{key}")]
    same = then == now if not isinstance(then, float) else abs(then - now) <= CLOSE * abs(then)
    loose = isinstance(then, int) and "acceptance" in where and abs(then - now) <= CLOSE * then
    return [] if same or loose else [f"{where}: {then}, now {now}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", action="append", default=[], type=Path, metavar="FOLDER", help="what minillm train wrote")
    parser.add_argument("--check", action="store_true", help="compare with figures.json")
    args = parser.parse_args()
    kept = HERE / "figures.json"
    figures = json.loads(kept.read_text()) if kept.exists() else {"training": {}}
    figures["training"] |= dict(take(folder) for folder in args.run)
    now = measure()
    if args.check:
        wrong = differences({key: figures[key] for key in now}, now)
        wrong += [] if (HERE / "README.md").read_text() == card(figures) else ["README.md is not what figures.json says"]
        sys.exit("\n".join(wrong) or 0)
    figures |= now
    kept.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    (HERE / "README.md").write_text(card(figures))


if __name__ == "__main__":
    main()
