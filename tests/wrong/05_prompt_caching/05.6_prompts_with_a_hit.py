"""Counts only the prompts in which something was found."""
shares = [hit / n for hit, n in zip(found, prompts, strict=True)]
tokens = sum(found) / max(1, sum(n for hit, n in zip(found, prompts) if hit))
mean = sum(shares) / len(shares)
any_hit = sum(hit > 0 for hit in found) / len(found)
return tokens, mean, any_hit
