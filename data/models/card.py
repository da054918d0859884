"""The model card, written from figures that are measured here: README.md and figures.json beside this file.

    python data/models/card.py --run runs/tiny --run runs/tiny-draft --run runs/moral     take over what `minillm train` made
    python data/models/card.py                                                           measure again, write
    python data/models/card.py --check                                                   measure again, compare, write nothing
"""

import argparse
import hashlib
import json
import shutil
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
CORPUS = HERE.parent / "corpus" / "stories.txt.xz"
NAMES = ("tiny", "tiny-draft")
MORAL, MANY = "So now we know:", 40
HELD_OUT = 0.03
CLOSE = 0.02  # relative: rounding on another processor may turn one token, and with it the rest of that text


def take(folder):  # a run's folder -> name, {what: number}
    """Copy what a run made, if it is a run of the configuration that is here; sum up its curve."""
    from minillm.training.config import read
    from minillm.training.curve import read_curve

    ran, name = read(folder / "config.toml"), folder.name
    adapter = ran.base.method != "full"
    if ran.decisive() != read(HERE / f"{name}.toml").decisive():
        sys.exit(f"{folder} is not a run of {HERE / name}.toml")
    shutil.copyfile(folder / ("adapter.gguf" if adapter else "model.gguf"), HERE / f"{name}.gguf")
    shutil.copyfile(folder / "loss.png", HERE / f"{name}_loss.png")
    steps = read_curve(folder / "loss.csv")
    last = steps[-50:]
    return name, {
        "steps": steps[-1].step,
        **({"rank": ran.base.rank} if adapter else {}),
        "tokens": sum(s.tokens for s in steps),
        "seconds": round(sum(s.seconds for s in steps)),
        "loss": round(sum(s.loss for s in last) / len(last), 4),
        "held_out_loss": round(steps[-1].held_out_loss, 4),
    }


def who_is_who(llm, documents):  # LLM, [text] -> {what: number}
    """Of places where a story uses one of its names again: how many, and the right name's mean probability there."""
    import numpy as np

    from minillm.bench.pair import probe
    from minillm.layers import softmax

    grid = tomllib.loads((CORPUS.parent / "grid.toml").read_text())
    spelt = [llm.tokenizer.encode(f" {name}", bos=False) for name in (*grid["girls"], *grid["boys"])]
    names, found = {ids[0] for ids in spelt if len(ids) == 1}, []
    for document in documents:
        ids = llm.tokenizer.encode(document)[: llm.config.context_length]
        again = [i for i, token in enumerate(ids) if token in names and token in ids[:i]]
        if again:
            found += softmax(probe(llm, ids[:-1]))[np.array(again) - 1, np.array(ids)[again]].tolist()
    return {"names": len(names), "places": len(found), "probability": round(float(np.mean(found)), 4)}


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
    with_moral = LLM(str(HERE / "tiny.gguf"), adapters={"moral": HERE / "moral.gguf"})
    many = [SamplingParams(temperature=0.7, max_tokens=250, seed=seed) for seed in range(MANY)]
    told = {name: [with_moral.generate(begin, p, adapter=name).text.strip() for p in many] for name in (None, "moral")}
    moral = {
        "stories": MANY,
        "before": sum(MORAL in text for text in told[None]),
        "after": sum(MORAL in text for text in told["moral"]),
        "samples": told["moral"][:3],
    }
    files = {n: (HERE / f"{n}.gguf").read_bytes() for n in (*NAMES, "moral")}
    about = {n: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for n, data in files.items()}
    names = {llm.config.name: who_is_who(llm, held_out) for llm in (target, draft)}
    return {"files": about, "pair": pair.run(target, draft, held_out), "names": names, "samples": samples, "moral": moral}


CARD = """# tiny and tiny-draft

Two small story tellers with one tokenizer, trained by `minillm train` on the corpus beside them; this page is written by
`data/models/card.py` from `figures.json`. They exist so that every command, lesson and test runs with nothing downloaded, and
so that there is a draft for a target. Both are Llama models in F16; llama.cpp runs them.

| model | parameters | file | steps | tokens seen | training, one core | perplexity, held out |
|---|---|---|---|---|---|---|
{rows}

Perplexity is per token, over {documents} held-out stories ({held_out:.0%}, chosen by their hash). Who is who: where such a story
uses a name again ({places:,} places), `tiny` gives the right one a probability of **{tiny_name:.2f}** on average, `tiny-draft`
{draft_name:.2f}; a guess among {names} names is worth {blind:.2f}.

**Acceptance** of tiny-draft's tokens by tiny, γ = {gamma}, from the beginnings of {prompts} held-out stories
(`minillm bench pair`):

| | accepted of those looked at | tokens a look | looked at |
|---|---|---|---|
{rates}

**Data.** {kept:,} stories that SmolLM2-135M-Instruct (Apache-2.0) ended sentence by sentence, each told up to four times with
other names: {words:,} words, {different_words:,} different ones; see `data/corpus/`. Made by one small model, so they are
grammatical, simple, much alike, and often absurd. Nothing in them is true, and no person is meant.

**Made by** `minillm train --config data/models/tiny.toml`, then `tiny-draft.toml`; curves: `tiny_loss.png`,
`tiny-draft_loss.png`. **Not for** anything but learning, testing and measuring: they know no facts and follow no instruction.

## Ten samples, unselected

Seeds 0 to 9, temperature 0.7, from the beginning of a text, at most 250 tokens.

{samples}

## moral.gguf, an adapter

LoRA of rank {rank} on all seven matrices of a layer, {lora_bytes:.2f} MB, trained in {lora_seconds} s beside a `tiny` that stays
as it is (`minillm train --config data/models/moral.toml`) on {moral_stories:,} stories that end with a moral. The stories that
`tiny` learned from have none. Of {many} stories (seeds 0 to {last}), so many have one: **{before}** without the adapter,
**{after}** with it. `minillm generate --lora data/models/moral.gguf "Once upon a time"`. Seeds 0 to 2, with it:

{moral_samples}

## eagle.gguf, a head for another model

It drafts for SmolLM2-135M from that model's own vectors: `EAGLE.md`, written by `data/models/eagle.py`.
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
    moral, adapter = figures["moral"], figures["training"]["moral"]
    more = {
        "rank": adapter["rank"],
        "lora_bytes": figures["files"]["moral"]["bytes"] / 1e6,
        "lora_seconds": adapter["seconds"],
        "moral_stories": json.loads((CORPUS.parent / "statistics.json").read_text())["morals"]["kept"],
        "many": moral["stories"],
        "last": moral["stories"] - 1,
        "before": moral["before"],
        "after": moral["after"],
        "moral_samples": "\n".join(f"{i}. {text}" for i, text in enumerate(moral["samples"])),
    }
    names, drafts = (figures["names"][name] for name in NAMES)
    more |= {"places": names["places"], "names": names["names"], "blind": 1 / names["names"]}
    more |= {"tiny_name": names["probability"], "draft_name": drafts["probability"]}
    lists = {"rows": "\n".join(rows), "rates": "\n".join(rates), "samples": samples}
    return CARD.format(**pair, **corpus, **lists, **more, held_out=HELD_OUT)


def differences(then, now, where=""):  # -> ["where: then, now"]
    """Numbers that are not close; samples are not compared."""
    if isinstance(then, dict):
        return [d for key in then if key != "samples" for d in differences(then[key], now.get(key), f"{where}/{key}")]
    same = then == now if not isinstance(then, float) else abs(then - now) <= CLOSE * abs(then)
    drawn = isinstance(then, int) and ("acceptance" in where or "moral" in where)
    loose = drawn and abs(then - now) <= max(2, CLOSE * then)
    return [] if same or loose else [f"{where}: {then}, now {now}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", action="append", default=[], type=Path, metavar="FOLDER", help="what `minillm train` wrote")
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
