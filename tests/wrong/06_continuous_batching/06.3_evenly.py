"""Divides the rest evenly, and leaves over what short prompts do not use."""
prompts = [n for n in pending if n > 1]
each = (budget - sum(n == 1 for n in pending)) // max(1, len(prompts))
return [1 if n == 1 else min(n, each) for n in pending]
