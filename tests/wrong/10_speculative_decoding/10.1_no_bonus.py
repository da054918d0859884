"""Forgets the token that follows the drafts."""
tokens, speed_ups = 0.0, []
for gamma in range(most + 1):
    tokens += alpha**gamma if gamma else 0
    speed_ups.append(speed_up(tokens, gamma, cost, 1 + gamma * extra))
return speed_ups.index(max(speed_ups))
