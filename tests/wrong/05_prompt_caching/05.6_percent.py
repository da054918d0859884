"""Gives percentages."""
shares = [hit / n for hit, n in zip(found, prompts, strict=True)]
tokens = sum(found) / sum(prompts)
mean = sum(shares) / len(shares)
any_hit = sum(hit > 0 for hit in found) / len(found)
return 100 * tokens, 100 * mean, 100 * any_hit
