"""Corrects the moments themselves: at the next step they are corrected again."""
m *= beta1
m += (1 - beta1) * g
v *= beta2
v += (1 - beta2) * g * g
m /= 1 - beta1**t
v /= 1 - beta2**t
w *= 1 - rate * decay
w -= rate * m / (np.sqrt(v) + epsilon)
