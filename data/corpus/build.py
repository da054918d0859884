"""The corpus that is shipped: told by tell.py, looked through, packed, counted.

    python data/corpus/build.py                                # stories, morals, questions, statistics; some minutes
    python data/corpus/build.py --check                        # statistics.json against the files that are here

The grammar makes no mistakes on purpose, but rules that a program can check are checked on every document: one that has a fault
is left out and counted. Documents stand in the order of their numbers, one after another with <|endoftext|> between them, in
a file packed with xz. Questions stand by themselves, one JSON object a line, about stories that are in none of the other files.
"""

import argparse
import hashlib
import json
import lzma
import random
import re
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import tell  # noqa: E402  the module beside this one

SEPARATOR = "\n<|endoftext|>\n"
RUN = 8  # words; how much of the text is new is counted in such runs
SEED, DOCUMENTS, MORALS, QUESTIONS = 1, 40_000, 1_000, 1_000
WORDS = {"story": (80, 320), "dialogue": (30, 250), "chapters": (350, 900)}  # fewest and most
LINES = (6, 16)  # of a dialogue
KINDS = 0.15  # share of held-out questions that ask what somebody is; every story can answer these
NOT_NAMES = set(
    re.findall("[A-Z][a-z]*", "I Mom Dad Grandma Grandpa Oh Yes No Once One Two The A An And But So Then Chapter Monday")
)
NOT_NAMES |= {"Tuesday", "Wednesday", "Sunday"}
SHE, HE = {"she", "her", "hers", "herself"}, {"he", "his", "him", "himself"}
WOMEN = {"mother", "woman", "goose", "grandma", "sisters"}
MEN = {"father", "man", "king", "giant", "farmer", "postman", "brother"}
QUESTION = (  # that does not end in a question mark
    r"(?:^|[.!?] |\")(?:and |but |so )?"
    r"(?:(?:what|where|who|how|why|when) (?:is|was|are|were|do|does|did|shall|will|can|could|should)"
    r"|(?:shall|do|did|can|does|will) (?:i|we|you|it))\b[^.!?]*[a-z](?:[.!]|,\")"
)
NO_QUESTION = r"(?:^|[.!?] |\")(?:Let us|We|You never|I (?:hope|think|want)|They)\b[^.!?\"]*[?]"  # that does


def words_of(text):
    return re.findall(r"[a-z']+", text.lower())


def fault(document):  # -> what is wrong with a document, or ""
    """Cheap rules, each for a fault that was seen while the grammar was written."""
    text, words = document.text, words_of(document.text)
    if re.search(r"[^A-Za-z0-9' ,.!?\":;\n-]|[ ][.,!?]|[.,!?][.,]|  ", text) or text.count('"') % 2:
        return "characters"
    least, most = WORDS[document.form]
    if not least <= len(words) <= most:
        return "length"
    if document.form == "dialogue" and not LINES[0] <= text.count("\n") <= LINES[1]:
        return "length"
    if re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiouh]", text):
        return "a or an"
    if re.search(r"\b([a-z']+) \1\b", text):
        return "a word twice"
    if strangers(text, document):
        return "a stranger"
    if wrong_pronoun(set(words), document):
        return "a pronoun"
    if document.form == "story" and said_twice(text):
        return "a sentence twice"
    return "a question mark" if re.search(NO_QUESTION, text) or re.search(QUESTION, text, re.I) else ""


def strangers(text, document):  # -> names that nobody in the document has
    """Words with a capital that do not open a sentence, a speech or a line."""
    people = {document.facts[who] for who in "nft"} | NOT_NAMES | set(document.others)
    titles = " ".join(document.facts.get(key, "") for key in ("name", "sound"))  # of a boat, a game
    return set(re.findall(r"(?<=[a-z,;] )[A-Z][a-z]+", text)) - people - set(titles.split())


def wrong_pronoun(words, document):
    """Is there a she where nobody is one, or a he?"""
    facts = document.facts
    present = [who for who in "nfte" if facts[who].lower() in words]
    girls = {facts[f"{who}.he"] == "she" for who in present}
    she = True in girls or words & WOMEN or document.form == "chapters"
    he = False in girls or words & MEN or document.form == "chapters"
    return bool(not she and words & SHE or not he and words & HE)


def said_twice(text):
    sentences = [s.strip() for s in re.findall(r"[^.!?]+", text.lower().split("\n\n")[0]) if len(s.split()) > 3]
    return len(set(sentences)) < len(sentences)


def stories(world, seed, count):  # -> [Document]
    return [tell.document(world, seed, number) for number in range(count)]


def morals(world, seed, count):  # -> [Document]
    """Stories that end with a moral; no other document has one."""
    return [tell.story(world, random.Random(f"{seed}:moral:{number}"), moral=True) for number in range(count)]


def questions(world, seed, count):  # -> [{"story", "question", "choices", "answer", "about"}]
    """Held out: one question each about stories of their own, with four answers. At least one wrong answer is mentioned too."""
    items, number = [], 0
    while len(items) < count:
        rng = random.Random(f"{seed}:question:{number}")
        made, number = tell.story(world, rng, asks=True), number + 1
        kinds = rng.random() < KINDS
        asked = [item for item in made.questions if item[3].endswith(".kind") == kinds and mentioned(made.text, item[2])]
        asked = [item for item in asked if len(item[2]) == 3]
        if fault(made) or not asked:
            continue
        question, answer, others, about = rng.choice(asked)
        choices = [answer, *others]
        rng.shuffle(choices)
        item = {"story": made.text, "question": question, "choices": choices, "answer": choices.index(answer), "about": about}
        items.append(item)
    return items


def mentioned(text, answers):
    """How many have all their words in the text? A wrong answer that has none could be told without reading."""
    return sum(tell.says(text, answer) for answer in answers)


def clean(documents):  # [Document] -> [Document], {reason: how many}
    left_out, kept, seen = Counter(), [], set()
    for document in documents:
        reason = "told before" if document.text in seen else fault(document)
        left_out.update([reason] if reason else [])
        kept += [] if reason else [document]
        seen.add(document.text)
    return kept, dict(left_out)


def statistics(path):  # path -> {what: number}
    """What a packed file holds, counted from the file."""
    data = path.read_bytes()
    text = lzma.decompress(data).decode()
    found = [s.strip() for s in text.split(SEPARATOR) if s.strip()]
    words = [w for s in found for w in words_of(s)]
    return {
        "stories": len(found),
        "words": len(words),
        "different_words": len(set(words)),
        "sentences": len(re.findall(r'[.!?]"?(?=\s|$)', text)),
        "bytes": len(text.encode()),
        "packed_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def distinct_runs(texts):  # -> share of runs of RUN words that occur here for the first time
    seen, count = set(), 0
    for text in texts:
        words = words_of(text)
        runs = [hash(tuple(words[i : i + RUN])) for i in range(len(words) - RUN + 1)]
        count += len(runs)
        seen.update(runs)
    return round(len(seen) / count, 4)


def pack(texts, path):
    path.write_bytes(packed(SEPARATOR.join(texts) + SEPARATOR))


def packed(text):
    return lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME)


def build(name, documents):  # -> what is told of it in statistics.json
    kept, left_out = clean(documents)
    texts = [document.text for document in kept]
    pack(texts, HERE / f"{name}.txt.xz")
    forms = Counter(document.form for document in kept)
    about = {"told": len(documents), "left_out": left_out, "kept": len(kept), "forms": dict(forms)}
    asked = sum("\nQ: " in text for text in texts)
    about |= {"with_questions": asked, f"distinct_runs_of_{RUN}": distinct_runs(texts)}
    return about | statistics(HERE / f"{name}.txt.xz")


def check(known):  # -> names of the files that differ
    wrong = [n for n in ("stories", "morals") if known[n] | statistics(HERE / f"{n}.txt.xz") != known[n]]
    return wrong + ["questions"] * (known["questions"] != about_questions(lzma.open(HERE / "questions.jsonl.xz", "rt").read()))


def about_questions(text):
    """by_mention: right answers of somebody who draws from those answers whose words the story has, and understands nothing."""
    items = [json.loads(line) for line in text.splitlines()]
    found = [1 / mentioned(item["story"], item["choices"]) for item in items]
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {"items": len(items), "chance": 0.25, "by_mention": round(sum(found) / len(found), 4), "sha256": digest}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--documents", type=int, default=DOCUMENTS)
    parser.add_argument("--check", action="store_true", help="only compare statistics.json with the files")
    args = parser.parse_args()
    kept_in = HERE / "statistics.json"
    if args.check:
        wrong = check(json.loads(kept_in.read_text()))
        sys.exit(f"these differ from statistics.json: {', '.join(wrong)}" if wrong else 0)
    world = tell.load()
    text = "".join(json.dumps(item) + "\n" for item in questions(world, args.seed, QUESTIONS))
    (HERE / "questions.jsonl.xz").write_bytes(packed(text))
    told = {
        "morals": build("morals", morals(world, args.seed, MORALS)),
        "questions": about_questions(text),
        "stories": build("stories", stories(world, args.seed, args.documents)),
    }
    kept_in.write_text(json.dumps(told, indent=2) + "\n")
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
