"""Makes new moments, which are lost after the step."""
m = beta1 * m + (1 - beta1) * g
v = beta2 * v + (1 - beta2) * g * g
w *= 1 - rate * decay
w -= rate * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + epsilon)
