"""Stories for a small model, told by a larger one, sentence by sentence.

    python data/corpus/tell.py --stories 10000 --seed 1 --out raw.jsonl

A model of 135 million parameters that is asked for a story soon walks in circles. Asked only to end a sentence whose first
words are given, it does well. So a story is an outline from grid.toml: who, where, what thing, and for each sentence how it
begins. The model ends a sentence; if it has a fault, again; then the outline gives the next beginning, and so on. A story in
which four tries of one sentence have faults is given up. (TinyStories asked a large model for whole stories, with
words drawn at random: Eldan and Li 2023, arXiv:2305.07759. From it is the idea that the prompt, not luck, makes variety.)

Many stories are told at once, as requests to one engine: continuous batching fills the places of those that have ended, and
the prefix cache keeps what has been read of a story, so that a sentence costs its own tokens only.

Every draw has a seed of its own, from (seed, story, sentence, try). The outlines are the same on every machine; the words
may differ where two tokens are all but equally likely, since rounding depends on the processor and on the batch.
"""

import argparse
import json
import random
import re
import sys
import time
import tomllib
from collections import deque
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
TRIES = 4  # of a sentence, before the story is given up
MOST_TOKENS = 30
MODEL = "smollm2-135m"

OTHERS = {"I", "Mom", "Mommy", "Dad", "Daddy", "Mama", "Papa", "Grandma", "Grandpa", "Oh", "Yes", "No"}  # names anyone may use
BAD = frozenset(
    re.findall(
        "[a-z']+",
        "kill killed die died dead death blood drunk beer wine gun sex sexy boyfriend girlfriend god jesus hate hell damn stupid "
        "story stories tale character reader author chapter adventure moral human humans children's user",
    )
)
SHE, HE = {"she", "her", "hers", "herself"}, {"he", "his", "him", "himself"}
MORAL = "The moral of the story is: {beginning}"  # so the larger model is asked
TOLD = ("The moral of the story is:", "So now we know:")  # so it is told, in words that the stories have
MORALS = ["be kind", "always", "it is good to", "never", "a friend", "do not", "when you", "even a small", "be brave", "sharing"]


@dataclass
class Story:
    """One story under way."""

    number: int
    plot: str
    prompt: list[int]  # the question, as a chat
    beats: list[str]  # how each sentence begins
    names: set[str]
    pronouns: set[str]  # that fit nobody in it
    text: str = ""
    failed: int = 0  # tries of the sentence under way
    new: str = ""  # what the model has made of it


def outline(grid, seed, number, moral):  # -> plot name, question, [beginning], {name}, {pronoun}
    """Who, where, what and how: a function of the seed and the story's number alone."""
    rng = random.Random(f"{seed}:{number}")
    plot = rng.choice(grid["plots"])
    hero, friend = (character(rng, grid) for _ in range(2))
    while friend[0] == hero[0] or friend[1] == hero[1]:
        friend = character(rng, grid)
    thing = rng.choice(grid["things"])
    he, his, him = ("she", "her", "her") if hero[2] else ("he", "his", "him")
    words = {
        "n": hero[0], "a": hero[1], "f": friend[0], "b": friend[1], "o": thing, "O": thing.partition(" ")[2],
        "p": rng.choice(grid["places"]), "he": he, "He": he.title(), "his": his, "His": his.title(), "him": him,
    }  # fmt: skip
    beats = [rng.choice(beat).format(**words) for beat in plot["beats"]]
    if moral:
        beats.append(MORAL.format(beginning=rng.choice(MORALS)))
    unfit = (set() if hero[2] or friend[2] else SHE) | (HE if hero[2] and friend[2] else set())
    return plot["name"], grid["ask"].format(**words), beats, {hero[0], friend[0]}, unfit


def character(rng, grid):  # -> name, kind, is it a girl
    """A name that fits the kind."""
    kind = rng.choice(grid["kinds"])
    girl = kind == "girl" or (kind != "boy" and rng.random() < 0.5)
    return rng.choice(grid["girls" if girl else "boys"]), kind, girl


def plain(text):
    """Typewriter quotes and dashes, single spaces."""
    for old, new in (("\u201c", '"'), ("\u201d", '"'), ("\u2018", "'"), ("\u2019", "'"), ("\u2013", "-"), ("\u2014", " - ")):
        text = text.replace(old, new)
    return re.sub(r"\s+", " ", text)


def sentence(text, start=0):  # -> text to the end of the sentence that is open at `start`; None while it has no end
    """A sentence ends with . ! ? outside quotes, or with a quote that closes after one of them."""
    quoted = False
    for i, c in enumerate(text):
        closes = c == '"' and quoted and text[i - 1] in ".!?"
        if i >= start and (closes or (c in ".!?" and not quoted)):
            return text[: i + 1]
        quoted ^= c == '"'
    return None


def fault(new, beginning, story):  # -> what is wrong with a sentence, or ""
    """new: the beginning and what the model made of it. Cheap rules, each for a fault that was seen."""
    words = re.findall(r"[A-Za-z']+", new)
    lower = [w.lower() for w in words]
    if not re.fullmatch(r"[A-Za-z' ,.!?\":;-]+", new) or " -" in new or "--" in new:
        return "characters"
    if not 1 <= len(words) - len(re.findall(r"[A-Za-z']+", beginning)) <= 18:
        return "length"
    if any(w[0].isupper() and w.split("'")[0] not in story.names | OTHERS for w in inner_words(new)):
        return "a stranger"
    if BAD & set(re.findall(r"[a-z']+", new[len(beginning) :].lower())):
        return "a bad word"
    if story.pronouns & set(lower):
        return "a pronoun"
    if any(a == b and a != "very" for a, b in zip(lower, lower[1:], strict=False)):
        return "a word twice"
    if any(len(w) > 3 and lower.count(w) > 3 for w in lower) or re.search(r"\b(Mr|Mrs|Dr|Ms)\.$", new):
        return "a word too often"
    before = re.findall(r"[a-z']+", story.text.lower())
    grams = {tuple(before[i : i + 5]) for i in range(len(before) - 4)}
    if any(tuple(lower[i : i + 5]) in grams for i in range(len(lower) - 4)):
        return "said before"
    return ""


def inner_words(text):  # -> words that do not open a sentence or a speech
    return re.findall(r"(?<=[a-z,;:] )[A-Za-z']+", text)


class Teller:
    """Tells stories through an engine, `together` at a time."""

    def __init__(self, llm, grid, seed, together, moral):
        from minillm.engine.engine import Engine
        from minillm.scheduler.scheduler import SchedulerConfig

        blocks = together * 32
        self.engine = Engine(llm, SchedulerConfig(num_blocks=blocks, block_size=16, max_sequences=together, prefix="hash"))
        self.llm, self.grid, self.seed, self.moral = llm, grid, seed, moral
        self.story_of = {}  # of a request
        self.tokens, self.given_up = 0, 0

    def tell(self, numbers, together):  # -> Story after Story, in the order in which they end
        """The stories of these numbers; those that fail are counted and left out."""
        waiting, running = deque(numbers), 0
        while waiting or running:
            while waiting and running < together:
                self.begin(waiting.popleft())
                running += 1
            for story in self.step():
                running -= 1
                if story.beats:
                    self.given_up += 1
                else:
                    yield story

    def begin(self, number):
        plot, ask, beats, names, unfit = outline(self.grid, self.seed, number, self.moral)
        story = Story(number, plot, self.llm.chat([{"role": "user", "content": ask}]), beats, names, unfit)
        self.ask(story)

    def ask(self, story):
        """Have the next sentence ended."""
        from minillm import SamplingParams

        given = self.llm.tokenizer.encode((story.text + " " + story.beats[0]).strip(), bos=False)
        seed = abs(hash((self.seed, story.number, len(story.beats), story.failed)))  # of integers: the same every time
        params = SamplingParams(max_tokens=MOST_TOKENS, temperature=0.7, min_p=0.04, repetition_penalty=1.1, seed=seed)
        story.new = ""
        self.story_of[self.engine.add(story.prompt + given, params)] = story

    def step(self):  # -> stories that are done, or given up
        done = []
        for delta in self.engine.step():
            story = self.story_of[delta.request]
            self.tokens += 1
            story.new += delta.text
            beginning = story.beats[0]
            new = sentence(plain(beginning + story.new), start=len(beginning))
            if new is None and delta.finish_reason is None:
                continue
            self.engine.cancel(delta.request)
            del self.story_of[delta.request]
            if self.is_over(story, new):
                done.append(story)
        return done

    def is_over(self, story, new):  # Story, sentence or None -> is it told, or given up?
        """Keep a sentence without a fault and ask for the next; else try again."""
        if new and not fault(new, story.beats[0], story):
            new = new.replace(*TOLD) if new.startswith(TOLD[0]) else new
            story.text, story.beats, story.failed = (story.text + " " + new).strip(), story.beats[1:], 0
        else:
            story.failed += 1
        if not story.beats or story.failed == TRIES:
            return True
        self.ask(story)
        return False


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stories", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="the number of the first story")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--together", type=int, default=32, help="stories told at once")
    parser.add_argument("--moral", action="store_true", help="end each with a moral")
    parser.add_argument("--out", required=True, help="JSON lines, appended; numbers that are there are not told again")
    args = parser.parse_args()

    from minillm import LLM

    out = Path(args.out)
    told = {json.loads(line)["number"] for line in out.read_text().splitlines()} if out.exists() else set()
    numbers = [n for n in range(args.first, args.first + args.stories) if n not in told]
    grid = tomllib.loads((HERE / "grid.toml").read_text())
    teller = Teller(LLM(MODEL, backend="numba", kv_dtype="float16"), grid, args.seed, args.together, args.moral)
    begin, count = time.time(), 0
    with out.open("a") as file:
        for count, story in enumerate(teller.tell(numbers, args.together), 1):
            print(json.dumps({"number": story.number, "plot": story.plot, "text": story.text}), file=file, flush=True)
            if count % 100 == 0:
                seconds = time.time() - begin
                print(
                    f"{count:,} told, {teller.given_up:,} given up, {teller.tokens / seconds:,.0f} tokens/s, "
                    f"{count / seconds * 60:,.0f} stories a minute", file=sys.stderr, flush=True
                )  # fmt: skip
    print(f"{count:,} stories told, {teller.given_up:,} given up, {teller.tokens:,} tokens", file=sys.stderr)


if __name__ == "__main__":
    main()
