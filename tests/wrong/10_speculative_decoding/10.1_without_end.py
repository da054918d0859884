"""Takes the tokens of endless drafts."""
tokens, speed_ups = 0.0, []
for gamma in range(most + 1):
    tokens = 1 / (1 - alpha) if alpha < 1 else 1e9
    speed_ups.append(speed_up(tokens, gamma, cost, 1 + gamma * extra))
return speed_ups.index(max(speed_ups))
