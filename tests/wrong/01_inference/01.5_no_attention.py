"""Leaves attention out: two FLOPs a parameter and that is it."""
return 2 * self.matrix_parameters()
