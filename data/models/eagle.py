"""An EAGLE head for SmolLM2, and what it is worth: EAGLE.md and eagle.json beside this file, eagle.gguf where it pays.

    python data/models/eagle.py --work runs/eagle            tell, train, measure, write; goes on where it was stopped
    python data/models/eagle.py --work runs/eagle --write    write again what eagle.json says

What it learns from are SmolLM2's own texts: half of them go on from beginnings of the corpus's stories, half answer questions,
each a form filled with a topic (data/corpus/asked.toml). It is judged by held-out stories, chosen by their hash as everywhere
here, and by questions whose topics it has not met.
"""

import argparse
import json
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from minillm.files import replacing

HERE = Path(__file__).parent
MODEL, CORPUS, HELD_OUT = "smollm2-135m", HERE.parent / "corpus" / "stories.txt.xz", 0.03
TOGETHER, LENGTH, SHORTEST, LONGEST, SEED = 64, 128, 8, 24, 7  # texts told at once, tokens a text, and of a beginning
BATCH, RATE, WEIGHT, OWN, SHORT = 16, 2e-3, 0.5, 0.25, 8192  # texts a step; see training/eagle.py
WORTH = 1.3  # times, greedy, as expected: below it a head is not shipped
DRAFTS = "short", "whole"  # vocabularies


def stories():  # -> ([text], [text]), to begin from and held out
    from minillm.training.data import read_corpus, split

    return split(read_corpus(CORPUS), "<|endoftext|>", HELD_OUT)


def questions():  # -> ([text], [text]), to learn from and to be judged by
    """Every topic in every form, in an order of its own; and those that are held out."""
    asked = tomllib.loads((CORPUS.parent / "asked.toml").read_text())
    filled = [form.replace("{}", topic) for form in asked["forms"] for topic in asked["topics"]]
    return [filled[i] for i in np.random.default_rng(SEED).permutation(len(filled))], asked["held_out"]


def beginnings(llm, number):  # LLM, number of a batch -> [ids]: stories in even batches, questions in odd ones
    if number % 2:
        asked, _ = questions()
        chosen = [asked[(number // 2 * TOGETHER + i) % len(asked)] for i in range(TOGETHER)]
        return [llm.chat([{"role": "user", "content": question}]) for question in chosen]
    documents, _ = stories()
    lengths = np.random.default_rng([SEED, number]).integers(SHORTEST, LONGEST + 1, TOGETHER)
    chosen = [documents[(number // 2 * TOGETHER + i) % len(documents)] for i in range(TOGETHER)]
    return [llm.tokenizer.encode(d)[:n] for d, n in zip(chosen, lengths, strict=True)]


def tell(llm, work, batches):  # LLM, folder, int
    """Texts of the target with their vectors, TOGETHER to a file; files that are there are kept."""
    from minillm.training import eagle_data

    for number in range(batches):
        path, begin = work / f"told_{number:03}.npz", time.time()
        if path.exists():
            continue
        begun = beginnings(llm, number)
        told = eagle_data.generate_texts(llm.transformer, begun, LENGTH, llm.tokenizer.eos_ids, [SEED, number, 1])
        with replacing(path) as file:
            np.savez(file, ids=told.ids, features=told.features, counts=told.counts)
        print(f"told {number + 1} of {batches}, {time.time() - begin:.0f} s", flush=True)


def train(work, batches, steps):  # folder, int, int -> {what: number}
    """The head, from what was told; a checkpoint every 50 steps. Writes head.gguf."""
    from minillm.model import zoo
    from minillm.model.load import load_parameters
    from minillm.speculative import eagle
    from minillm.training import checkpoint
    from minillm.training.config import Optimizer, Run
    from minillm.training.eagle import head_parameters, short_vocabulary
    from minillm.training.eagle_data import GeneratedBatches, GeneratedTexts, objective
    from minillm.training.loop import fit
    from minillm.training.optimizer import zeros_like

    target, weights = load_parameters(zoo.resolve(MODEL))
    table, config = weights["token_embd.weight"], eagle.head_config(target)
    files = [np.load(work / f"told_{number:03}.npz") for number in range(batches)]
    told = GeneratedTexts(*(np.concatenate([file[key] for file in files]) for key in ("ids", "features", "counts")))
    vocabulary = short_vocabulary(told.ids, SHORT, target.vocab_size)
    loss = objective(config, told, table, table[vocabulary], WEIGHT, OWN)
    run = Run("", steps, BATCH, LENGTH, checkpoint_every=50)
    settings = SimpleNamespace(run=run, optimizer=Optimizer(RATE, floor=RATE / 20, warmup=min(50, steps)))
    decisive = {"batches": batches, "steps": steps, "rate": RATE, "weight": WEIGHT, "own": OWN, "short": SHORT, "seed": SEED}
    path, log = work / "checkpoint.npz", work / "log.jsonl"
    if path.exists():
        state = checkpoint.load(path, decisive)
    else:
        made = head_parameters(config, SEED)
        state = checkpoint.State(0, made, zeros_like(made), zeros_like(made), {"epoch": 0, "next": 0})

    def watch(step):
        with open(log, "a") as file:
            print(json.dumps({"step": step.step, "loss": step.loss, "seconds": step.seconds}), file=file)
        if step.step % 20 == 0:
            print(f"step {step.step} of {steps}, loss {step.loss:.3f}, {step.tokens / step.seconds:,.0f} tokens/s", flush=True)

    fit(settings, state, GeneratedBatches(told, BATCH, SEED), loss, path=path, decisive=decisive, watch=watch)
    about = {"general.license": "apache-2.0", "general.description": "EAGLE head, trained by minillm on SmolLM2's own texts"}
    eagle.save_eagle(work / "head.gguf", target, state.parameters, vocabulary, extra=about)
    rows = {row["step"]: row for row in map(json.loads, log.read_text().splitlines())}.values()  # after a kill some come twice
    return {
        "texts": len(told.ids), "tokens": int(told.counts.sum()), "steps": steps, "different_tokens": len(np.unique(told.ids)),
        "seen": steps * BATCH * LENGTH, "seconds": round(sum(row["seconds"] for row in rows)),
        "loss": round(float(np.mean([row["loss"] for row in list(rows)[-50:]])), 4),
    }  # fmt: skip


def measure(llm, work, prompts):  # LLM, folder, int -> {what: number}
    """Acceptance on held-out beginnings and on questions, with the short vocabulary and the whole; sizes; times."""
    from minillm.bench import eagle as bench
    from minillm.bench.pair import GAMMA, NEW_TOKENS, PROMPT_TOKENS
    from minillm.speculative.eagle import load_eagle

    short = load_eagle(work / "head.gguf", llm.transformer)
    heads = {"short": short, "whole": load_eagle(work / "head.gguf", llm.transformer)}
    heads["whole"].vocabulary, heads["whole"].head = None, llm.transformer.weights.head
    learnt, held_out = stories()
    known = {tuple(llm.tokenizer.encode(d)[:PROMPT_TOKENS]) for d in learnt}
    beginnings = [llm.tokenizer.encode(d)[:PROMPT_TOKENS] for d in held_out]
    fresh = [b for b in beginnings if tuple(b) not in known]
    kinds = {"stories": fresh[:prompts], "questions": [llm.chat([{"role": "user", "content": q}]) for q in questions()[1]]}
    rates, texts = {}, []
    for kind, some in kinds.items():
        for name, head in heads.items():
            for t in (0, 1):
                rates[f"{kind}, {name}, {t}"] = found = bench.acceptance(llm, head, some, t, on_text=texts.append)
                print(kind, name, t, found, flush=True)
    c = llm.config
    matrices = [head_weights(short), short.head.shape[0] * c.d_model, c.vocab_size * c.d_model]
    read = [nbytes(short.fc, *vars_of(short.layers[0])), nbytes(short.head), nbytes(llm.transformer.weights.head)]
    layers = [nbytes(*vars_of(layer)) for layer in llm.transformer.weights.layers]
    return {
        "prompts": len(kinds["stories"]), "gamma": GAMMA, "new_tokens": NEW_TOKENS, "prompt_tokens": PROMPT_TOKENS,
        "known_beginnings": len(beginnings) - len(fresh), "rates": rates, "milliseconds": bench.costs(llm, heads),
        "weights": {"head": matrices[0], "short": matrices[1], "whole": matrices[2], "target": c.parameters()},
        "bytes": {"head": read[0], "short": read[1], "whole": read[2], "target": sum(layers) + read[2]},
        "file": (work / "head.gguf").stat().st_size, "short": len(short.vocabulary),
    }  # fmt: skip


def head_weights(head):  # Eagle -> int
    """Weights of its matrices and norms, without an LM head."""
    from minillm.speculative.eagle import head_shapes

    return sum(int(np.prod(shape)) for shape in head_shapes(head.config).values())


def vars_of(layer):  # LayerWeights -> its arrays and matrices
    return [value for name in layer.__slots__ if (value := getattr(layer, name)) is not None]


def nbytes(*matrices):
    return sum(matrix.nbytes for matrix in matrices)


def expected(m, kind, name, t):  # figures, … -> {what: number}
    """What a rate promises: by the formula with weights read, with bytes read, and with the times that were taken here."""
    from minillm.costs.speculation import expected_tokens, speed_up

    r, gamma, ms = m["rates"][f"{kind}, {name}, {t}"], m["gamma"], m["milliseconds"]
    of_weights, of_bytes = ((m[by]["head"] + m[by][name]) / m[by]["target"] for by in ("weights", "bytes"))
    of_time, v = ms[name] / ms["decode step"], ms[f"look at {gamma + 1}"] / ms["decode step"]
    by_formula = expected_tokens(r["rate"], gamma)
    reached = np.cumsum([kept for kept, _ in r["by_depth"]]) / r["looks"] + 1  # tokens a look with a chain of 1, 2, … γ
    best = max(range(1, gamma + 1), key=lambda g: speed_up(reached[g - 1], g, of_weights))
    return {
        "c": of_weights, "c_bytes": of_bytes, "c_time": of_time, "v": v, "tokens": by_formula,
        "weights": speed_up(by_formula, gamma, of_weights), "bytes": speed_up(by_formula, gamma, of_bytes),
        "time": speed_up(r["tokens_per_look"], gamma, of_time, v), "best": best,
        "at_best": speed_up(reached[best - 1], best, of_weights),
    }  # fmt: skip


PAGE = """# An EAGLE head for SmolLM2-135M

{verdict}

Written by `data/models/eagle.py` from `eagle.json`. One layer of the target's shape ({head:.2f} M weights, {file:.2f} MB in
Q8_0) guesses the target's next vector from the current one and the token that was drawn; the target's LM head turns the guess
into a draft (`minillm/training/eagle.py`; Li et al. 2024, arXiv:2401.15077).

**Learnt from** {texts:,} texts of {length} tokens that SmolLM2 told itself, {tokens:,} tokens in all: half go on from 8 to 24
tokens of the corpus's stories, half answer questions (`data/corpus/asked.toml`); of each, half greedy, half at temperature 1.
{steps:,} steps of {batch:,} tokens, each text {epochs:.1f} times. A token of training takes {layer_flops:.0f} MFLOP for the layer
(a guess of its own, forward, backward) and {rows_flops:.0f} for the LM head's short rows (what is wanted, what is found,
backward); with all rows it would be {all_flops:.0f}, most of the work.

**Acceptance** at γ = {gamma}, a chain and no tree: held-out beginnings of {prompt_tokens} tokens, {prompts} of them, none of
which it has learnt from; and {questions} questions on topics that it has not met. Up to {new_tokens} new tokens each. "by depth":
of the first, second, … draft of a chain, the share kept of those looked at. Speed-up: (1 - α^(γ+1)) / ((1 - α)(γ c + 1)).

| prompts | vocabulary | temperature | accepted α | by depth | tokens a look | c | expected speed-up | best γ ≤ {gamma} |
|---|---|---|---|---|---|---|---|---|
{rows}

**What a draft costs.** The layer is small; the LM head that it borrows is not. A decode step of the target reads
{target:.1f} M weights, {target_mb:.1f} MB; a draft step reads the layer and an LM head:

| vocabulary | weights | of the target's | bytes | of the target's | processor time, one core | of a decode step |
|---|---|---|---|---|---|---|
{costs}

The whole LM head is {lm_share:.0%} of the target's weights and {lm_bytes:.0%} of its bytes, as it is kept in 8 bits and the
layers in 4: each draft of four reads it again. So the head proposes only the {short:,} tokens that these texts use most (then the
lowest ids); a token that is left out is never drafted, and the target still says it.

**And a look is not free.** The formula has it that to look at {look} tokens costs one decode step. On one core here it takes
{v:.2f} of them ({look_ms:.1f} ms against {step_ms:.1f} ms): arithmetic, not only memory, sets the pace. Tokens a look over
γ c + v, with times for c and v, for stories:

{by_time}
"""


def page(figures):  # -> Markdown
    m, learnt = figures["measured"], figures["training"]
    kinds = [(kind, name, t) for kind in ("stories", "questions") for name in DRAFTS for t in (0, 1)]
    told = {key: expected(m, *key) for key in kinds}
    rows, costs, ms = [], [], m["milliseconds"]
    for (kind, name, t), e in told.items():
        r = m["rates"][f"{kind}, {name}, {t}"]
        depth = " ".join(f"{kept / max(looked, 1):.2f}" for kept, looked in r["by_depth"])
        rows.append(
            f"| {kind} | {name} | {t} | {r['rate']:.1%} of {r['looked_at']:,} | {depth} | {r['tokens_per_look']:.2f} "
            f"| {e['c']:.3f} | **{e['weights']:.2f}** | {e['at_best']:.2f} at {e['best']} |"
        )
    for name in DRAFTS:
        e, weights, size = told["stories", name, 0], *(m[by]["head"] + m[by][name] for by in ("weights", "bytes"))
        costs.append(
            f"| {name} | {weights / 1e6:.1f} M | {e['c']:.1%} | {size / 1e6:.1f} MB | {e['c_bytes']:.1%} | {ms[name]:.2f} ms, "
            f"of it LM head {ms[name + ', LM head']:.2f} | {e['c_time']:.1%} |"
        )
    gain, greedy = told["stories", "short", 0]["weights"], m["rates"]["stories, short, 0"]["rate"]
    verdict, here = "Worth it" if worth(figures) else "Not worth it, and not shipped", told["stories", "short", 0]["time"]
    times = [f"{name} vocabulary, temperature {t}: {told['stories', name, t]['time']:.2f}" for name in DRAFTS for t in (0, 1)]
    verdict = f"""**{verdict}**: greedy, {greedy:.1%} of its drafts are kept, an expected speed-up of {gain:.2f} where a look
costs what a decode step costs (bound: {WORTH}). On the CPU that this was measured on it does not:
there it is {here:.2f}."""
    return PAGE.format(
        verdict=verdict,
        head=m["weights"]["head"] / 1e6, file=m["file"] / 1e6, texts=learnt["texts"], length=LENGTH + 1, tokens=learnt["tokens"],
        steps=learnt["steps"], batch=BATCH * LENGTH, epochs=learnt["steps"] * BATCH / learnt["texts"],
        layer_flops=8 * m["weights"]["head"] / 1e6, rows_flops=6 * m["weights"]["short"] / 1e6,
        all_flops=6 * m["weights"]["whole"] / 1e6, gamma=m["gamma"],
        prompt_tokens=m["prompt_tokens"], prompts=m["prompts"], questions=len(questions()[1]),
        new_tokens=m["new_tokens"], rows="\n".join(rows), costs="\n".join(costs), target=m["weights"]["target"] / 1e6,
        target_mb=m["bytes"]["target"] / 1e6, lm_share=m["weights"]["whole"] / m["weights"]["target"],
        lm_bytes=m["bytes"]["whole"] / m["bytes"]["target"], short=m["short"], look=m["gamma"] + 1,
        by_time="\n".join(f"- {t}" for t in times),
        v=told["stories", "short", 0]["v"], look_ms=ms[f"look at {m['gamma'] + 1}"], step_ms=ms["decode step"],
    )  # fmt: skip


def worth(figures):  # -> bool
    return bool(expected(figures["measured"], "stories", "short", 0)["weights"] > WORTH)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="where texts, checkpoint and head go")
    parser.add_argument("--batches", type=int, default=48, help=f"of {TOGETHER} texts, 10 MB each")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--prompts", type=int, default=30, help="held-out beginnings to judge by")
    parser.add_argument("--tell-only", action="store_true")
    parser.add_argument("--write", action="store_true", help="the page alone, from eagle.json")
    args = parser.parse_args()
    kept = HERE / "eagle.json"
    if not args.write:
        from minillm import LLM

        args.work.mkdir(parents=True, exist_ok=True)
        llm = LLM(MODEL, backend="numba", kv="float16")
        tell(llm, args.work, args.batches)
        if args.tell_only:
            return
        figures = {"training": train(args.work, args.batches, args.steps)}
        figures["measured"] = measure(llm, args.work, args.prompts)
        kept.write_text(json.dumps(figures, indent=1) + "\n")
        if worth(figures):
            (HERE / "eagle.gguf").write_bytes((args.work / "head.gguf").read_bytes())
    (HERE / "EAGLE.md").write_text(page(json.loads(kept.read_text())))


if __name__ == "__main__":
    main()
