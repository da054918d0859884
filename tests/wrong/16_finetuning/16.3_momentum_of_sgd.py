"""Sums gradients in m, as SGD's momentum does."""
m *= beta1
m += g
v *= beta2
v += (1 - beta2) * g * g
w *= 1 - rate * decay
w -= rate * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + epsilon)
