"""Looks for the most tokens, not for the most in the time."""
tokens, speed_ups = 0.0, []
for gamma in range(most + 1):
    tokens += alpha**gamma
    speed_ups.append(tokens)
return speed_ups.index(max(speed_ups))
