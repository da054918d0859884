"""Looks for the longest length only."""
for n in [longest]:
    for start in range(len(text) - n - 1, -1, -1):
        if text[start : start + n] == text[len(text) - n :]:
            return text[start + n : start + n + most]
return []
