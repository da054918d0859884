"""Takes the first match of the text."""
for n in range(min(longest, len(text) - 1), shortest - 1, -1):
    for start in range(len(text) - n):
        if text[start : start + n] == text[len(text) - n :]:
            return text[start + n : start + n + most]
return []
