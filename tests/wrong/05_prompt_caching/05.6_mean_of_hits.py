"""Averages over requests with a hit only."""
shares = [hit / n for hit, n in zip(found, prompts, strict=True)]
tokens = sum(found) / sum(prompts)
mean = sum(shares) / max(1, sum(hit > 0 for hit in found))
any_hit = sum(hit > 0 for hit in found) / len(found)
return tokens, mean, any_hit
