"""Takes the largest of equals, and drafts for nothing."""
tokens, speed_ups = 0.0, []
for gamma in range(most + 1):
    tokens += alpha**gamma
    speed_ups.append(speed_up(tokens, gamma, cost, 1 + gamma * extra))
return most - speed_ups[::-1].index(max(speed_ups))
