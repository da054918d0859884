"""Floor 5: which sequences run in the next step, and with which blocks. Pure bookkeeping: no arrays, no clock, no model."""
