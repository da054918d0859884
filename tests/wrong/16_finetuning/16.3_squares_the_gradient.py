"""Squares the gradient in place."""
m *= beta1
m += (1 - beta1) * g
v *= beta2
g *= g
v += (1 - beta2) * g
w *= 1 - rate * decay
w -= rate * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + epsilon)
