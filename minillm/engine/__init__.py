"""Floor 6: the scheduler's plan carried out by a model on real time; prompts in, streams of text out."""
