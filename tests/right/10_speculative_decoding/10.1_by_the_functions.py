"""Asks the function beside it for each."""
return max(range(most + 1), key=lambda gamma: speculative_speedup(alpha, gamma, cost, 1 + gamma * extra))
