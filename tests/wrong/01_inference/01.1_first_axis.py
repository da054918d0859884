"""Takes the mean over tokens instead of over components."""
return x / np.sqrt(np.mean(x * x, axis=0, keepdims=True) + eps) * weight
