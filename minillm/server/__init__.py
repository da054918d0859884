"""Floor 7: OpenAI's HTTP interface in front of the engine: wire format, limits, guards, metrics page."""
