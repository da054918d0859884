"""Leaves the decay out."""
m *= beta1
m += (1 - beta1) * g
v *= beta2
v += (1 - beta2) * g * g
w -= rate * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + epsilon)
