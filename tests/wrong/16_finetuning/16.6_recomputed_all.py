"""Recomputes nothing: every layer keeps all."""
wide, narrow = c.n_heads * c.d_head, c.n_kv_heads * c.d_head
layer = 2 * c.d_model + 2 * wide + 2 * narrow + 2 * c.d_ff + c.n_heads
if c.qk_norm:
    layer += wide + narrow
inputs = (c.d_model, {"attn_q", "attn_k", "attn_v"}), (c.d_model, {"ffn_gate", "ffn_up"}), (c.d_ff, {"ffn_down"})
layer += sum(size for size, users in inputs if adapted is None or users & set(adapted))
a_token = c.n_layers * layer
return FLOAT * batch * length * a_token
