"""When is a sample a story? The rule, and a script that applies it, so that nobody has to be asked whether they like one.

    python data/models/judge.py --of 1000        how many stories of the training text the rule itself would refuse

A story that a model told is sound if all of this holds:

    begins      one of the first two sentences names somebody
    ends        it came to its end of text by itself, behind a full stop, a "!" or a "?", of at least SHORTEST words
    people      two to five people; who stands in the opening is named in the last third too; nobody is new in the last fifth
    kinds       nobody is two kinds of creature: "Ned the cat", later "a pig named Ned"
    things      no thing has two colours that nobody gave it: "the red kite", later "the blue kite"
    once        no sentence of more than three words twice

What no script sees, that one sentence follows from the one before, is left to the reader: the samples on the card are not chosen.
"""

import argparse
import random
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

CORPUS = Path(__file__).parent.parent / "corpus"
SHORTEST = 60  # words
SENTENCE = re.compile(r'(?<=[.!?])"?\s+|(?<=[.!?]")\s+')


def faults(text, ended, world):  # what the model told, did it end by itself?, the corpus' grid -> [what is wrong with it]
    story = text.split("\n\nQ: ")[0].strip()
    sentences, words = SENTENCE.split(story), re.findall(r"[A-Za-z']+", story)
    people = {*world["girls"], *world["boys"]}
    at = [i for i, word in enumerate(words) if word.removesuffix("'s") in people]
    named = [words[i].removesuffix("'s") for i in at]
    first = dict(zip(reversed(named), reversed(at), strict=True))  # name -> where it comes first
    opening = {name for name, i in first.items() if i < len(words) / 5}
    late = {name for name, i in zip(named, at, strict=True) if i >= len(words) * 2 / 3}
    return [
        name
        for name, wrong in {
            "begins": not any(name in " ".join(sentences[:2]) for name in people),
            "ends": not ended or story[-1:] not in tuple('.!?"') or len(words) < SHORTEST,
            "people": not 2 <= len(first) <= 5 or not opening & late or any(i > len(words) * 4 / 5 for i in first.values()),
            "kinds": any(len(kinds) > 1 for kinds in kinds_of(story, people, world).values()),
            "things": any(len(colours) > 1 for colours in colours_of(story, world).values()),
            "once": any(n > 1 and len(s.split()) > 3 for s, n in Counter(sentences).items()),
        }.items()
        if wrong
    ]


def is_story(text):
    """Tell a story from a dialogue, whose lines begin with who speaks, and from chapters."""
    return not re.match(r"\w+: |Chapter 1", text)


def kinds_of(story, people, world):  # -> {name: {kind}}
    """Read "Ned the cat", "Ned, a small cat", "a cat named Ned", "Ned was a cat"."""
    name, kind = "|".join(sorted(people)), "|".join(sorted({*world["kinds"]}))
    ways = (
        rf"\b(?P<name>{name}) the (?P<kind>{kind})\b",
        rf"\b(?P<name>{name}), an? (?:\w+ )?(?P<kind>{kind})\b",
        rf"\ban? (?:\w+ )?(?P<kind>{kind}) (?:named|called) (?P<name>{name})\b",
        rf"\b(?P<name>{name}) was an? (?:\w+ )?(?P<kind>{kind})\b",
    )
    found = defaultdict(set)
    for way in ways:
        for match in re.finditer(way, story):
            found[match["name"]].add(match["kind"])
    return found


def colours_of(story, world):  # -> {thing: {colour}}
    """Read "the red kite" and the like, of the things that have one colour in a story; a gift may be another of its kind."""
    colour, thing = "|".join(world["lists"]["colours"]), "|".join(world["lists"]["things"]["toys"])
    found = defaultdict(set)
    for match in re.finditer(rf"\b(?:the|his|her) ({colour}) ({thing})\b", story, re.IGNORECASE):
        found[match[2]].add(match[1].lower())
    return found


def main():
    sys.path.insert(0, str(CORPUS))
    import tell

    from minillm.training.data import read_corpus

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--of", type=int, default=1000, help="how many stories")
    args = parser.parse_args()
    world = tell.read(CORPUS / "grid.toml")
    documents = read_corpus(CORPUS / "stories.txt.xz").split("<|endoftext|>")
    told = [d.strip() for d in documents if d.strip() and is_story(d.strip())]
    chosen = random.Random(0).sample(told, args.of)
    wrong = [(faults(text, True, world), text) for text in chosen]
    print(f"{sum(not f for f, _ in wrong)} of {args.of} are sound; {dict(Counter(x for f, _ in wrong for x in f))}")
    for f, text in [w for w in wrong if w[0]][:5]:
        print(f, text, "\n")


if __name__ == "__main__":
    main()
