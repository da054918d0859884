"""Takes the latest match, however short."""
for start in range(len(text) - 1, 0, -1):
    for n in range(min(longest, start), shortest - 1, -1):
        if text[start - n : start] == text[len(text) - n :]:
            return text[start : start + most]
return []
