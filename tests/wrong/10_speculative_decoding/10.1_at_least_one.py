"""Drafts also where it does not pay."""
tokens, speed_ups = 1.0, []
for gamma in range(1, most + 1):
    tokens += alpha**gamma
    speed_ups.append(speed_up(tokens, gamma, cost, 1 + gamma * extra))
return 1 + speed_ups.index(max(speed_ups))
