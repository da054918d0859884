"""Floor 2: where keys and values wait for the next token."""
