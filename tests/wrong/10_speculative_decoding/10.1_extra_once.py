"""Adds the extra once, not for each draft."""
tokens, speed_ups = 0.0, []
for gamma in range(most + 1):
    tokens += alpha**gamma
    speed_ups.append(speed_up(tokens, gamma, cost, 1 + extra * (gamma > 0)))
return speed_ups.index(max(speed_ups))
