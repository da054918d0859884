"""Forgets what the drafts cost."""
tokens, speed_ups = 0.0, []
for gamma in range(most + 1):
    tokens += alpha**gamma
    speed_ups.append(speed_up(tokens, gamma, 0, 1 + gamma * extra))
return speed_ups.index(max(speed_ups))
