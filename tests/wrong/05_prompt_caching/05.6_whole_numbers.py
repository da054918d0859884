"""Divides whole numbers: all that is not found whole is 0."""
shares = [hit // n for hit, n in zip(found, prompts, strict=True)]
tokens = sum(found) / sum(prompts)
mean = sum(shares) / len(shares)
any_hit = sum(hit > 0 for hit in found) / len(found)
return tokens, mean, any_hit
