"""`minillm quiz`: interview questions, asked again when you are about to forget them."""

import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from minillm.cli.arguments import Parser

if TYPE_CHECKING:
    from datetime import date

    from minillm.course.interview.recall import Memory

HELP = "interview cards with spaced repetition; export for Anki"


def configure(parser: Parser) -> None:
    parser.add_argument("--deck", metavar="NAME", help="only one lesson: 04, or 04_paged_attention")
    parser.add_argument("--due", action="store_true", help="only cards that are due again, no new ones")
    parser.add_argument("--count", type=int, default=10, metavar="N", help="cards in this session (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="list decks, or with --deck its cards, and ask nothing")
    parser.add_argument("--anki", metavar="FILE", help="write the cards for Anki instead: .tsv, or .apkg (needs genanki)")


def run(args: Namespace) -> int:
    from datetime import date

    from minillm.course.interview.cards import CardError, choose_decks, read_decks
    from minillm.course.interview.recall import Memory

    if args.count < 1:
        raise CardError(f"--count must be at least 1, found {args.count}.")
    decks = read_decks()
    if not decks:
        raise CardError("no decks are here; they are lessons/cards/*.toml in the repository.")
    if args.deck is not None:
        decks = choose_decks(decks, args.deck)
    cards = [card for deck in decks.values() for card in deck]
    if args.anki:
        from minillm.course.interview.anki import export

        print(f"{export(cards, args.anki)}: {len(cards)} card{'s' * (len(cards) != 1)}")
        return 0
    memory, today = Memory(notice=lambda text: print(f"minillm: {text}", file=sys.stderr)), date.today()
    if args.list:
        list_cards(cards, memory.cards, today) if args.deck else list_decks(decks, memory.cards, today)
        return 0
    return hold_session(args, cards, memory, today)


def hold_session(args: Namespace, cards: list, memory: "Memory", today: "date") -> int:
    from minillm.course.interview.quiz import QuizSession, ask_line, choose, nothing_due

    chosen = choose(cards, memory.cards, today, args.count, args.due)
    if not chosen:
        print(nothing_due(cards, memory.cards, today))
        return 0
    QuizSession(memory, ask_line, lambda text: print(text, flush=True), today).run(chosen)
    return 0


def list_decks(decks: dict, memory: dict, today: "date") -> None:
    from minillm.course.interview.recall import is_due
    from minillm.terminal import table

    rows = []
    for name, cards in decks.items():
        new = sum(card.id not in memory for card in cards)
        due = sum(is_due(memory.get(card.id), today) for card in cards)
        rows.append([name, str(len(cards)), str(new), str(due)])
    print(table(["deck", "cards", "new", "due"], rows))


def list_cards(cards: list, memory: dict, today: "date") -> None:
    import shutil

    from minillm.course.interview.recall import is_due

    columns = shutil.get_terminal_size((110, 24)).columns
    for card in cards:
        recall = memory.get(card.id)
        when = "new" if recall is None else "due" if is_due(recall, today) else recall.due
        question = " ".join(card.question.split())
        line = f"{card.id:6} {card.level:7} {when:11} {question}"
        print(line if len(line) < columns else line[: columns - 2] + "…")
