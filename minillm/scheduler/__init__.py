"""Floor 5: who runs in the next step, and with which blocks. Pure bookkeeping: no arrays, no clock, no model."""
