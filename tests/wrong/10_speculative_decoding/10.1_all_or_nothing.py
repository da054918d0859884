"""Counts checks of which every draft is kept, and no others."""
tokens, speed_ups = 0.0, []
for gamma in range(most + 1):
    tokens = (gamma + 1) * alpha**gamma
    speed_ups.append(speed_up(tokens, gamma, cost, 1 + gamma * extra))
return speed_ups.index(max(speed_ups))
