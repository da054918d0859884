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
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import judge  # noqa: E402  the modules beside this one
import recite  # noqa: E402

CORPUS = HERE.parent / "corpus" / "stories.txt.xz"
QUESTIONS = CORPUS.parent / "questions.jsonl.xz"
NAMES, SHORT = ("tiny", "tiny-draft"), "tiny-short"
EDGES = (0, 256, 512, 768, 1023)  # tokens of a long document
SAMPLES, SHOWN, TEMPERATURE = 30, 10, 0.8
MORAL, MANY = "So now we know:", 40
HELD_OUT, MEASURED = 0.03, 150  # of the documents; so many of those, from the first, are measured: minutes, not an hour
CLOSE = 0.02  # relative: rounding on another processor may turn one token, and with it the rest of that text


def take(folder):  # a run's folder -> name, {what: number}
    """Copy what a run made, if it is a run of the configuration that is here; sum up its curve."""
    from minillm.training.config import read
    from minillm.training.curve import read_curve

    ran, name = read(folder / "config.toml"), folder.name
    adapter = ran.base.method != "full"
    if ran.decisive() != read(HERE / f"{name}.toml").decisive():
        sys.exit(f"{folder} is not a run of {HERE / name}.toml")
    if name != SHORT:  # a beginning, which is not kept
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

    from minillm.bench.quality import probe
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
    from minillm import LLM
    from minillm.bench import pair, stories
    from minillm.training.data import read_corpus, split

    target, draft = (LLM(str(HERE / f"{name}.gguf")) for name in NAMES)
    learned, held_out = split(read_corpus(CORPUS), "<|endoftext|>", HELD_OUT)
    whole, held_out = held_out, held_out[:MEASURED]
    items, told = stories.read_items(QUESTIONS), samples(target)
    files = {n: (HERE / f"{n}.gguf").read_bytes() for n in (*NAMES, "moral")}
    return {
        "files": {n: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for n, data in files.items()},
        "pair": pair.run(target, draft, held_out),
        "by_gamma": by_gamma(target, draft, held_out),
        "bits_per_byte": {llm.config.name: round(pair.bits_per_byte(llm, held_out), 4) for llm in (target, draft)},
        "positions": {llm.config.name: pair.by_position(llm, whole, EDGES) for llm in (target, draft)},
        "names": {llm.config.name: who_is_who(llm, held_out) for llm in (target, draft)},
        "questions": {llm.config.name: stories.run(llm, items) for llm in (target, draft)},
        "sound": judged(told),
        "recited": recite.shares({"told": [text for text, _ in told], "held_out": held_out}, learned),
        "samples": [text for text, _ in told[:SHOWN]],
        "moral": with_moral(),
    }


def samples(llm):  # -> [(text, did it end by itself?)]
    """Tell stories from the beginning of a text, seeds 0 and up."""
    from minillm import SamplingParams

    made = []
    for seed in range(SAMPLES):
        told = llm.generate([llm.tokenizer.bos_id], SamplingParams(temperature=TEMPERATURE, max_tokens=500, seed=seed))
        made.append((told.text.strip(), told.finish_reason == "stop"))
    return made


def judged(told):  # -> {what: number}
    """Apply judge.py's rule; dialogues and chapters have other rules, and are left out."""
    world = tomllib.loads((CORPUS.parent / "grid.toml").read_text())
    wrong = [judge.faults(text, ended, world) for text, ended in told if judge.is_story(text)]
    faults = Counter(fault for faults in wrong for fault in faults)
    return {"stories": len(wrong), "sound": wrong.count([]), "faults": dict(faults)}


def by_gamma(target, draft, documents):  # -> {γ: {temperature: tokens a look}}
    """Measure what drafts of 1, 2 and 3 tokens are worth; 4 is the pair benchmark's."""
    from minillm.bench import pair

    beginnings = [target.tokenizer.encode(d)[: pair.PROMPT_TOKENS] for d in documents[:20]]

    def rates(gamma):
        return {str(t): pair.acceptance(target, draft, beginnings, t, gamma) for t in (0, 1)}

    return {str(gamma): rates(gamma) for gamma in range(1, pair.GAMMA)}


def with_moral():  # -> {what: number}
    """Count the stories that end with a moral, before and with the adapter."""
    from minillm import LLM, SamplingParams

    llm = LLM(str(HERE / "tiny.gguf"), adapters={"moral": HERE / "moral.gguf"})
    params = [SamplingParams(temperature=TEMPERATURE, max_tokens=400, seed=seed) for seed in range(MANY)]
    begin, told = [llm.tokenizer.bos_id], {}
    for name in (None, "moral"):
        told[name] = [llm.generate(begin, p, adapter=name).text.strip() for p in params]
    before, after = (sum(MORAL in text for text in told[name]) for name in (None, "moral"))
    return {"stories": MANY, "before": before, "after": after, "samples": told["moral"][:3]}


def card(figures):  # -> Markdown
    """Put the figures into card.template.md."""
    pair, statistics = figures["pair"], json.loads((CORPUS.parent / "statistics.json").read_text())
    moral, adapter, asked = figures["moral"], figures["training"]["moral"], figures["questions"]
    names, drafts = (figures["names"][name] for name in NAMES)
    kinds, positions = list(asked["tiny"]["by_kind"]), list(figures["positions"]["tiny"])
    fields = {
        "rows": lines(model_row(name, figures) for name in NAMES),
        "rates": lines(rate_rows(figures["by_gamma"] | {str(pair["gamma"]): pair["acceptance_at_temperature"]})),
        "position_heads": " | ".join(positions),
        "position_lines": "|".join("---" for _ in positions),
        "positions": lines(row(f"`{n}`", *(f"{figures['positions'][n][p]:.2f}" for p in positions)) for n in NAMES),
        "question_heads": " | ".join(kinds),
        "question_lines": "|".join("---" for _ in kinds),
        "questions": lines(question_row(name, asked[name], kinds) for name in NAMES),
        "items": asked["tiny"]["items"],
        "chance": asked["tiny"]["chance"],
        "by_mention": statistics["questions"]["by_mention"],
        "sampled": SAMPLES,
        "judged": figures["sound"]["stories"],
        "sound": figures["sound"]["sound"],
        "faults": ", ".join(f"{fault} ({n})" for fault, n in figures["sound"]["faults"].items()) or "nowhere",
        "recited": lines(row(n, f"{s['told']:.1%}", f"{s['held_out']:.1%}") for n, s in figures["recited"].items()),
        "temperature": TEMPERATURE,
        "places": names["places"],
        "names": names["names"],
        "blind": 1 / names["names"],
        "tiny_name": names["probability"],
        "draft_name": drafts["probability"],
        "samples": numbered(figures["samples"]),
        "rank": adapter["rank"],
        "lora_bytes": figures["files"]["moral"]["bytes"] / 1e6,
        "lora_seconds": adapter["seconds"],
        "moral_stories": statistics["morals"]["kept"],
        "many": moral["stories"],
        "last": moral["stories"] - 1,
        "before": moral["before"],
        "after": moral["after"],
        "moral_samples": numbered(moral["samples"]),
    }
    return (HERE / "card.template.md").read_text().format(**pair, **statistics["stories"], **fields, held_out=HELD_OUT)


def row(*cells):
    return f"| {' | '.join(map(str, cells))} |"


def lines(rows):
    return "\n".join(rows)


def numbered(texts):
    return "\n".join(f"{i}. {text}".replace("\n", "<br>") for i, text in enumerate(texts))


def model_row(name, figures):
    m, f, runs = figures["pair"]["models"][name], figures["files"][name], [figures["training"][name]]
    runs += [figures["training"][SHORT]] if name == "tiny" else []
    steps, tokens, seconds = (sum(run[what] for run in runs) for what in ("steps", "tokens", "seconds"))
    seen, took = f"{tokens / 1e6:.1f} M", f"{seconds / 60:.0f} min"
    size, bits = f"{f['bytes'] / 1e6:.2f} MB", f"{figures['bits_per_byte'][name]:.3f}"
    return row(f"`{name}`", f"{m['parameters']:,}", size, f"{steps:,}", seen, took, f"{m['perplexity']:.2f}", bits)


def rate_rows(by_gamma):
    for gamma, rates in by_gamma.items():
        for t, r in rates.items():
            how = "greedy" if t == "0" else f"temperature {t}"
            yield row(gamma, how, f"{r['rate']:.1%}", f"{r['tokens_per_look']:.2f}", f"{r['looked_at']:,}")


def question_row(name, found, kinds):
    all_of = f"**{found['right']:.1%}** ± {found['error']:.1%}"
    return row(f"`{name}`", all_of, *(f"{found['by_kind'][kind]['right']:.0%}" for kind in kinds))


def differences(then, now, where=""):  # -> ["where: then, now"]
    """Numbers that are not close; samples are not compared."""
    if isinstance(then, dict):
        return [d for key in then if key != "samples" for d in differences(then[key], now.get(key), f"{where}/{key}")]
    same = then == now if not isinstance(then, float) else abs(then - now) <= CLOSE * abs(then)
    drawn = isinstance(then, int) and any(part in where for part in ("acceptance", "by_gamma", "moral", "sound"))
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
