"""Floor 5: speculative decoding: proposers of drafts, and rejection sampling of them."""
