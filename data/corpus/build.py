"""From what tell.py wrote to the corpus that is shipped: cleaned, without duplicates, packed, counted.

    python data/corpus/build.py raw_0.jsonl raw_1.jsonl --retell 4 --out stories
    python data/corpus/build.py --check                        # statistics.json against the files that are here

A story goes if a word in it occurs in few others (a slip of the larger model, or a word that a small one could not learn), or
if most of its runs of eight words have been seen. --retell: each story several times, its people under other names, so that a
model cannot know by heart who did what and has to look back; a story that is held out (by data.split) is told once, and no
retelling of another comes to stand beside it. Stories stand in the order of their hash, one after another with <|endoftext|>
between them, in a file packed with xz.
"""

import argparse
import hashlib
import json
import lzma
import random
import re
import sys
import tomllib
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
SEPARATOR = "\n<|endoftext|>\n"
RARE = 3  # stories that a word must occur in
RUN = 8  # words
HELD_OUT = 0.03  # share, as in data/models/tiny.toml
MOST_SEEN = 0.5  # share of a story's runs that occurred in earlier ones


def words_of(text):
    return re.findall(r"[a-z']+", text.lower())


def digest(text):
    return hashlib.sha256(text.encode()).digest()


def clean(stories, others=()):  # [text], [text] -> [text], {reason: how many}
    """Stories worth learning from, in the order of their hash. others: texts whose words are known too."""
    left_out = Counter()
    stories = sorted(stories, key=digest)
    occurs = Counter(word for text in (*stories, *others) for word in set(words_of(text)))
    seen, kept = set(), []
    for text in stories:
        words = words_of(text)
        runs = {hash(tuple(words[i : i + RUN])) for i in range(len(words) - RUN + 1)}
        if any(occurs[w] < RARE for w in words):
            left_out["a rare word"] += 1
        elif len(runs & seen) > MOST_SEEN * len(runs):
            left_out["told before"] += 1
        else:
            seen |= runs
            kept.append(text)
    return kept, dict(left_out)


def retell(stories, times, grid):  # [text], int, {"girls", "boys"} -> [text]
    """Each story, and times - 1 more tellings with other names; girls stay girls. What is held out is told once."""
    told = []
    for text in stories:
        told.append(text)
        if held_out(text):
            continue
        rng = random.Random(digest(text))
        others = (with_names(text, grid, rng) for _ in range(2 * times))
        told += [other for other in others if not held_out(other)][: times - 1]
    return sorted(told, key=digest)


def with_names(text, grid, rng):  # -> the text with other names
    """Every name of the grid that occurs gets another of its kind; two people never get one name."""
    new = {}
    for names in (grid["girls"], grid["boys"]):
        present = [name for name in names if re.search(rf"\b{name}\b", text)]
        new |= dict(zip(present, rng.sample(names, len(present)), strict=True))
    return re.sub(rf"\b({'|'.join(new)})\b", lambda m: new[m[0]], text) if new else text


def held_out(text):
    """Is it on the side that `minillm train` keeps for judging?"""
    from minillm.training.data import split

    return bool(split(text, SEPARATOR.strip(), HELD_OUT)[1])


def statistics(path):  # path -> {what: number}
    """What a packed file holds, counted from the file."""
    packed = path.read_bytes()
    text = lzma.decompress(packed).decode()
    stories = [s.strip() for s in text.split(SEPARATOR) if s.strip()]
    words = [w for s in stories for w in words_of(s)]
    return {
        "stories": len(stories),
        "words": len(words),
        "different_words": len(set(words)),
        "sentences": len(re.findall(r'[.!?]"?(?=\s|$)', text)),
        "bytes": len(text.encode()),
        "packed_bytes": len(packed),
        "sha256": hashlib.sha256(packed).hexdigest(),
    }


def read(paths):  # files of tell.py -> [text]
    return [json.loads(line)["text"] for path in paths for line in path.read_text().splitlines()]


def pack(stories, path):
    path.write_bytes(lzma.compress((SEPARATOR.join(stories) + SEPARATOR).encode(), preset=9 | lzma.PRESET_EXTREME))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("raw", nargs="*", type=Path, help="files of tell.py")
    parser.add_argument("--out", help="name of the corpus")
    parser.add_argument("--known", nargs="*", default=[], type=Path, metavar="RAW", help="more files, only to know their words")
    parser.add_argument("--retell", type=int, default=1, metavar="N", help="tell each story N times, with other names")
    parser.add_argument("--check", action="store_true", help="only compare statistics.json with the files")
    args = parser.parse_args()
    kept_in = HERE / "statistics.json"
    known = json.loads(kept_in.read_text()) if kept_in.exists() else {}
    if args.check:
        wrong = [name for name, numbers in known.items() if numbers | statistics(HERE / f"{name}.txt.xz") != numbers]
        sys.exit(f"these differ from statistics.json: {', '.join(wrong)}" if wrong else 0)
    texts, others = read(args.raw), read(args.known)
    stories, left_out = clean(texts, others)
    path, grid = HERE / f"{args.out}.txt.xz", tomllib.loads((HERE / "grid.toml").read_text())
    pack(retell(stories, args.retell, grid), path)
    known[args.out] = {"told": len(texts), "left_out": left_out, "kept": len(stories)} | statistics(path)
    kept_in.write_text(json.dumps(known, indent=2) + "\n")
    print(json.dumps(known[args.out], indent=2))


if __name__ == "__main__":
    main()
