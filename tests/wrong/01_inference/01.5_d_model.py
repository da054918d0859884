"""Takes d_model for all heads together: in many models n_heads x d_head is something else."""
return 2 * self.matrix_parameters() + self.n_layers * 4 * self.d_model * context
