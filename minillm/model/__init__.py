"""Floor 3: a model that speaks: configuration, tokenizer, transformer, sampling, generation."""
