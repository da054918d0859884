"""Counts alpha for each draft, whatever became of those before it."""
tokens, speed_ups = 0.0, []
for gamma in range(most + 1):
    tokens = 1 + gamma * alpha
    speed_ups.append(speed_up(tokens, gamma, cost, 1 + gamma * extra))
return speed_ups.index(max(speed_ups))
