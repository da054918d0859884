"""Returns the match, and not what followed it."""
for n in range(min(longest, len(text) - 1), shortest - 1, -1):
    for start in range(len(text) - n - 1, -1, -1):
        if text[start : start + n] == text[len(text) - n :]:
            return text[start : start + most]
return []
