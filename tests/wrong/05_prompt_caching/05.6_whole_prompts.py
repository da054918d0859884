"""Counts only requests that were found whole."""
shares = [hit / n for hit, n in zip(found, prompts, strict=True)]
tokens = sum(found) / sum(prompts)
mean = sum(shares) / len(shares)
any_hit = sum(hit >= n - 1 for hit, n in zip(found, prompts)) / len(found)
return tokens, mean, any_hit
