"""Calibration: a model run on text so that a quantizer learns what its matrices are fed. On the floor of training."""
