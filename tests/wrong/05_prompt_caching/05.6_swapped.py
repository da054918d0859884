"""Takes the mean over requests for the rate of tokens."""
shares = [hit / n for hit, n in zip(found, prompts, strict=True)]
tokens = sum(found) / sum(prompts)
mean = sum(shares) / len(shares)
any_hit = sum(hit > 0 for hit in found) / len(found)
return mean, tokens, any_hit
