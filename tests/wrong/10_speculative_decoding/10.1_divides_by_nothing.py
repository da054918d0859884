"""Divides by 1 - alpha, which may be 0."""
tokens, speed_ups = 0.0, []
for gamma in range(most + 1):
    tokens = (1 - alpha ** (gamma + 1)) / (1 - alpha)
    speed_ups.append(speed_up(tokens, gamma, cost, 1 + gamma * extra))
return speed_ups.index(max(speed_ups))
