"""Counts for each place by how many tokens it agrees."""
best, found = (0, 0), []
for end in range(1, len(text)):
    n = 0
    while n < min(longest, end) and text[end - 1 - n] == text[-1 - n]:
        n += 1
    if n >= shortest and (n, end) > best:
        best, found = (n, end), text[end : end + most]
return found
