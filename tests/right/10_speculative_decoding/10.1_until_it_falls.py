"""Goes on while the next draft helps."""
tokens, best, found = 1.0, 1.0, 0
for gamma in range(1, most + 1):
    tokens += alpha**gamma
    rate = tokens / (gamma * cost + 1 + gamma * extra)
    if rate <= best + 1e-12:
        break
    best, found = rate, gamma
return found
