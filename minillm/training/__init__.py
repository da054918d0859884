"""Training: the other half of a model's life. The backward pass of every layer, by hand."""
