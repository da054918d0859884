"""Floor 5: speculative decoding: who drafts, and which drafts are kept."""
