"""Stories from a grammar: facts are drawn once, and every sentence keeps to them.

    python data/corpus/tell.py --stories 5 --seed 1

A plot (plots/*.toml) is a row of beats, and a beat is a list of wordings. Who, where, what thing, which colour, what goes wrong
and how it is mended are facts: drawn once for a story and put into every wording that speaks of them. So a story makes sense to
its end, questions about it have answers, and a small model can learn that what was said before matters. A plot has branches:
tables of facts that belong together, of which one is drawn. Nothing here learns or is learned from: a document is a function of
the seed and its number. (A world with rules, told in sentences, is how SHRDLU and the bAbI tasks were made: Weston et al. 2015,
arXiv:1502.05698. That a few thousand words are enough for a small model to tell stories: Eldan and Li 2023, arXiv:2305.07759.)
"""

import argparse
import random
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
TRIES = 8  # of a wording, before one that is stale is taken all the same
RUN = 5  # words that a story should not say twice
CHAPTERS = (3, 5)  # fewest and most
MORAL = "So now we know: "
SMALL = set(re.findall("[a-z]+", "a an the because it was what which did color like to do eat who where why"))
ANSWERS_ITSELF = re.compile(r"(?m)^(\w+: ).*[?]\n\1")  # a question, and then a line of the same speaker
MADE_OF = re.compile(r"\[([^\[\]]*)\]|\{([^{}]*)\}")


@dataclass
class Document:
    """A text, and what is true in it."""

    form: str  # story, dialogue or chapters
    plots: list[str]
    facts: dict[str, str]
    text: str = ""
    questions: list[tuple[str, str, list[str], str]] = field(default_factory=list)  # question, answer, other answers, fact
    others: list[str] = field(default_factory=list)  # names of those who come up in single chapters


def load(folder=HERE):  # -> {"girls", ..., "plots": {name: plot}, "talks": {name: talk}}
    """Read the world. What stands in lines becomes lists: the beats of a plot, the wordings of a beat."""
    world = read(folder / "grid.toml")
    world["shared"] = {name: lines(text) for name, text in world["shared"].items()}
    for kind, paths in (("plots", (folder / "plots").glob("*.toml")), ("talks", [folder / "talks.toml"])):
        world[kind] = {name: plot | {"plot": name} for path in sorted(paths) for name, plot in read(path).items()}
        for plot in world[kind].values():
            plot["branches"] = [v for v in plot.values() if isinstance(v, list)]
            for part, usual in (
                ("open", "@open\n\n@more"),
                ("day", "@day\n\n@aside"),
                ("tell", ""),
                ("rest", "@rest"),
                ("end", "@end\n@close"),
            ):
                plot[part] = [beat(block, world) for block in plot.get(part, usual).strip().split("\n\n") if block]
            plot["ask"] = [tuple(line.split(" | ")) for line in lines(plot.get("ask", ""))]
    return world


def read(path):
    return tomllib.loads(path.read_text())


def lines(text):
    return [line for line in text.strip().split("\n") if line]


def beat(block, world):  # -> [wording]; an empty one among them: the beat may be left out
    """Lines of a plot; @name stands for the shared wordings of that name, ? for nothing at all, half of the time."""
    found = [w for line in lines(block) for w in (world["shared"][line[1:]] if line.startswith("@") else [line])]
    wordings = [w for w in found if w != "?"]
    return wordings + [""] * (len(wordings) if "?" in found else 0)


# --- facts ------------------------------------------------------------------------------------------------------------


def draw(world, plot, rng, kept=None):  # -> facts, {fact: list or branch that it came from}
    """Everything that is true in a story. kept: facts that hold already, when it is a chapter of a longer one."""
    facts, spec, origin = dict(kept or {}), dict(world["always"]) | plot.get("facts", {}), {}
    for branch in plot["branches"]:
        row = rng.choice([row for row in branch if facts.get("f.kind") is None or fits(row, facts)])
        spec |= row
        origin |= {key: [other[key] for other in branch if key in other] for key in row}
    for who in "nft":
        if who not in facts:
            facts |= person(who, world, facts, rng, spec.get(f"{who}.kinds"))
    for key, value in spec.items():
        if key in facts:
            continue
        if value.startswith("@"):
            origin[key] = value
            facts |= pick(world, key, value, rng, set(facts.values()))
        else:
            facts[key] = value
    facts |= {f"{key}.the": re.sub("^an? ", "the ", value) for key, value in facts.items()}
    return facts, origin


def fits(row, facts):
    """May this branch be taken with the people that there are?"""
    return all(facts[f"{who}.kind"] in row.get(f"{who}.kinds", facts[f"{who}.kind"]).split() for who in "nf")


def person(who, world, facts, rng, kinds=None):  # -> facts about one more character
    """A name and a kind that nobody else has, and the pronouns that go with them."""
    taken = set(facts.values())
    kinds = kinds.split() if kinds else world["kinds"]
    kind = rng.choice([k for k in kinds if k not in taken] or kinds)
    girl = kind == "girl" or (kind != "boy" and rng.random() < 0.5)
    name = rng.choice([n for n in world["girls" if girl else "boys"] if n not in taken])
    return {who: name, f"{who}.kind": kind, f"{who}.hand": world["hands"].get(kind, "foot")} | pronouns(who, girl)


def pronouns(who, girl):
    words = ("she", "her", "her", "herself") if girl else ("he", "his", "him", "himself")
    return {f"{who}.{case}": word for case, word in zip(("he", "his", "him", "self"), words, strict=True)}


def pick(world, key, where, rng, taken):  # -> facts that one entry of a list gives
    entries = entries_of(world, where)
    free = [x for x in entries if isinstance(x, dict) or x.partition(" ")[2] not in taken and x not in taken]
    return spread(world, key, where, rng.choice(free or entries), rng, taken)


def entries_of(world, where):  # "@things.toys" -> the list
    found = world["lists"]
    for name in where[1:].split("."):
        found = found[name]
    return found


def spread(world, key, where, entry, rng, taken):  # -> {key: ..., key.part: ...}
    """A thing has a colour that nothing else has; a place knows "at" and "in"; an elder has pronouns."""
    if isinstance(entry, dict):
        return {f"{key}.{part}": value for part, value in entry.items()} | {key: entry["adj"]}
    if where.startswith("@things"):
        colour = rng.choice([c for c in world["lists"]["colours"] if c not in taken])
        return {key: f"{colour} {entry}", f"{key}.bare": entry, f"{key}.colour": colour}
    if where.startswith("@places"):
        return {key: entry.partition(" ")[2], f"{key}.at": entry}
    return {key: entry} | (pronouns(key, entry in ("Mom", "Grandma")) if where == "@elders" else {})


# --- words ------------------------------------------------------------------------------------------------------------


def expand(text, facts, shared, rng):
    """Fill in [one|of|these] and {facts}, also within what was filled in."""
    while found := MADE_OF.search(text):
        if found[1] is not None:
            new = rng.choice(found[1].split("|"))
        else:
            new = rng.choice(lines(facts[found[2]]) if found[2] in facts else shared[found[2]])
        text = text[: found.start()] + new + text[found.end() :]
    return text


def tidy(text):
    """Single spaces, "an" before a vowel, a capital where a sentence begins, a stop where it ends; " / " is a new line."""
    text = re.sub(r" +", " ", text).strip().replace(" / ", "\n")
    text = text + "." if text[-1:].isalpha() else text
    text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
    return re.sub(r'(^"?|\n|[.] |[.]" |[a-z][!?] |[.!?]"? "|\n\w+: |^\w+: )([a-z])', lambda m: m[1] + m[2].upper(), text)


def say(wordings, facts, shared, rng, before, opened):  # -> a text, or ""
    """One wording of a beat: of a few tries the first that is not stale."""
    for _ in range(TRIES):
        new = tidy(expand(rng.choice(wordings), facts, shared, rng))
        if not new or not stale(new, before, opened):
            break
    return new


def stale(new, before, opened):  # text, runs of words told before, first word of the last beat or who spoke last
    """Does it open like the beat before, go on for who spoke last, or say a run of words again?"""
    return new.split()[0] == opened or any(run in before for run in runs(new))


def runs(text):  # -> [RUN words]
    words = re.findall(r"[a-z']+", text.lower())
    return [tuple(words[i : i + RUN]) for i in range(len(words) - RUN + 1)]


# --- documents --------------------------------------------------------------------------------------------------------


def document(world, seed, number):
    """The document of this number: a story, a dialogue or a story in chapters."""
    rng = random.Random(f"{seed}:{number}")
    shares, luck = world["shares"], rng.random()
    if luck < shares["dialogue"]:
        return dialogue(world, rng)
    if luck < shares["dialogue"] + shares["chapters"]:
        return chapters(world, rng)
    made = story(world, rng, asks=rng.random() < shares["questions"])
    if made.questions:
        chosen = made.questions[: rng.choice([2, 3, 4])]
        made.text += "\n\n" + "\n".join(f"Q: {question}\nA: {answer}" for question, answer, *_ in chosen)
    return made


def story(world, rng, moral=False, asks=False):
    plot = rng.choice(list(world["plots"].values()))
    facts, origin = draw(world, plot, rng)
    told = tell(world, plot["open"] + plot["day"] + plot["tell"] + plot["end"], facts, rng)
    if moral:
        told.append(MORAL + tidy(expand(rng.choice(lines(plot["moral"])), facts, world["shared"], rng)))
    made = Document("story", [plot["plot"]], facts, " ".join(told))
    opening = " ".join(told[: len(plot["open"])])
    made.questions = [] if not asks else questions(world, plot, facts, origin, rng, made.text, opening)
    return made


def tell(world, beats, facts, rng):  # -> [text of a beat]
    told, before, opened = [], set(), ""
    for wordings in beats:
        if new := say(wordings, facts, world["shared"], rng, before, opened):
            told.append(new)
            before |= set(runs(new))
            opened = (re.findall(r"(?m)^\w+:", new) or new.split())[-1 if re.match(r"\w+:", new) else 0]
    return told


def dialogue(world, rng):
    """Two talk: a line that says who they are and where, then what they say in turn."""
    talk = rng.choice(list(world["talks"].values()))
    facts, _ = draw(world, talk, rng)
    for _ in range(TRIES):
        told = "\n".join(tell(world, talk["tell"], facts, rng))
        if not ANSWERS_ITSELF.search(told):
            break
    return Document("dialogue", [talk["plot"]], facts, in_turn(told))


def in_turn(text):
    """Who goes on speaking does so on the same line."""
    joined = re.sub(r"(?m)^(\w+): (.*)\n\1: ", r"\1: \2 ", text)
    return text if joined == text else in_turn(joined)


def chapters(world, rng):
    """One story after another about the same two friends."""
    friendly = [plot for plot in world["plots"].values() if "strangers" not in plot]
    count = rng.randint(*CHAPTERS)
    chosen, kept, told, facts, names = rng.sample(friendly, count), None, [], {}, []
    for number, plot in enumerate(chosen, 1):
        facts, _ = draw(world, plot, rng, kept)
        kept = kept or {key: value for key, value in facts.items() if re.match(r"[nfgh]\b", key)}
        names += [facts["t"], *facts.get("name", "").split()]
        day = [world["shared"]["nextday"]] if plot["day"] else []
        first = plot["open"] + plot["day"] if number == 1 else day + plot["day"][1:]
        last = plot["end"] if number == count else plot["rest"]
        told += [f"\nChapter {number}.", *tell(world, first + plot["tell"] + last, facts, rng)]
    text = " ".join(told).replace(" \n", "\n\n").strip()
    return Document("chapters", [plot["plot"] for plot in chosen], facts, text, others=names)


# --- questions --------------------------------------------------------------------------------------------------------


def questions(world, plot, facts, origin, rng, text, opening):  # -> [(question, answer, [other answer], fact)]
    """What can be asked of a story, and answered from its text alone; what belongs to the plot comes first."""
    found, own = [], list(plot["ask"])
    shared = [tuple(line.split(" | ")) for line in world["shared"]["ask"]]
    rng.shuffle(own)
    rng.shuffle(shared)
    for where, asked in ((text, own[:3]), (opening, shared)):  # what all stories share is told in their opening, or not at all
        for question, answer, key in asked:
            filled = [tidy(expand(part, facts, world["shared"], rng)) for part in (question, answer)]
            if says(where, filled[1]) and (where == text or says(where, filled[0])):
                found.append((*filled, others(world, answer, filled[1], key, facts, origin, rng, text), key))
    return found


def says(text, answer):  # -> does every longer word of it stand in the text?
    known = set(re.findall(r"[a-z']+", text.lower()))
    return all(w in known for w in re.findall(r"[a-z']+", answer.lower()) if w not in SMALL)


def others(world, answer, right, key, facts, origin, rng, text):  # -> up to 3 wrong answers of the same kind
    """The same answer with another fact in it; such as occur in the story come first, for they are harder to tell apart."""
    made = {tidy(expand(answer, facts | other, world["shared"], rng)) for other in alternatives(world, key, facts, origin, rng)}
    made = sorted(made - {right})
    rng.shuffle(made)
    return sorted(made, key=lambda other: not says(text, other))[:3]


def alternatives(world, key, facts, origin, rng):  # -> [facts that could have been]
    if key in ("n", "f", "t"):
        return [{key: name} for name in world["girls"] + world["boys"]]
    if key.endswith(".kind"):
        return [{key: kind} for kind in world["kinds"]]
    if key.endswith(".colour"):
        return [{key: colour} for colour in world["lists"]["colours"]]
    where = origin[key]
    if isinstance(where, list):
        return [{key: value} for value in where]
    made = [spread(world, key, where, entry, rng, set(facts.values())) for entry in entries_of(world, where)]
    if where.startswith("@things"):  # the same thing in a colour that something else has
        made += [{key: f"{facts[worn]} {facts[key + '.bare']}"} for worn in ("g.colour", "h.colour")]
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stories", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the number of the first")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    world = load()
    print("\n\n---\n\n".join(document(world, args.seed, n).text for n in range(args.first, args.first + args.stories)))


if __name__ == "__main__":
    main()
