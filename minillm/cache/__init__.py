"""Floor 3: where keys and values wait for the next token."""
