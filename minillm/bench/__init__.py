"""Floor 7: measurement. Work is reported beside its ceiling, and beside its peers in the same run."""
