"""Interview questions: cards with recomputed numbers, the quiz, spaced repetition, export to Anki."""
