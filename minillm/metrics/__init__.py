"""Floor 1: one event log, and TTFT, TPOT, ITL, E2E, throughput and goodput as functions over it."""
