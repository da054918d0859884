"""Weights the mean by length, which makes it the rate of tokens."""
shares = [hit / n for hit, n in zip(found, prompts, strict=True)]
tokens = sum(found) / sum(prompts)
mean = sum(share * n for share, n in zip(shares, prompts)) / sum(prompts)
any_hit = sum(hit > 0 for hit in found) / len(found)
return tokens, mean, any_hit
