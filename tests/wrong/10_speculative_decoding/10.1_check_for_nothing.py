"""Takes the check for one step, whatever its size."""
tokens, speed_ups = 0.0, []
for gamma in range(most + 1):
    tokens += alpha**gamma
    speed_ups.append(speed_up(tokens, gamma, cost))
return speed_ups.index(max(speed_ups))
