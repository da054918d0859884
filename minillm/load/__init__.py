"""Floor 5: load for any OpenAI-compatible server: traces, profiles, workloads, a client, the generator, its report."""
