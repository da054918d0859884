"""Decays by λ, not by η λ."""
m *= beta1
m += (1 - beta1) * g
v *= beta2
v += (1 - beta2) * g * g
w *= 1 - decay
w -= rate * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + epsilon)
