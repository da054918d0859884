"""Floor 1: model files on disk. GGUF and its block types."""
