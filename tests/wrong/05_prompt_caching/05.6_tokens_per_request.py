"""Divides the tokens found by the number of requests."""
shares = [hit / n for hit, n in zip(found, prompts, strict=True)]
tokens = sum(found) / len(found)
mean = sum(shares) / len(shares)
any_hit = sum(hit > 0 for hit in found) / len(found)
return tokens, mean, any_hit
