"""Floor 0: model files on disk. GGUF and its block types."""
