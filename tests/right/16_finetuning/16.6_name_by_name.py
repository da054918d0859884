"""Writes down each array with its width, and adds them up layer by layer."""
heads, kv = c.n_heads * c.d_head, c.n_kv_heads * c.d_head
sizes = {"x": c.d_model, "m": c.d_model, "q": heads, "out": heads, "k": kv, "v": kv, "lse": c.n_heads}
sizes |= {"gate": c.d_ff, "up": c.d_ff}
if c.qk_norm:
    sizes |= {"q_raw": heads, "k_raw": kv}
names = {"attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up", "ffn_down"} if adapted is None else set(adapted)
if names & {"attn_q", "attn_k", "attn_v"}:
    sizes["h"] = c.d_model
if names & {"ffn_gate", "ffn_up"}:
    sizes["h_m"] = c.d_model
if "ffn_down" in names:
    sizes["act"] = c.d_ff
of_layers = [sum(sizes.values())] + [c.d_model if recompute else sum(sizes.values()) for _ in range(c.n_layers - 1)]
return 4 * batch * length * sum(of_layers)
