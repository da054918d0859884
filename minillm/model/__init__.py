"""Floor 4: a model that speaks: configuration, tokenizer, transformer, sampling, generation."""
