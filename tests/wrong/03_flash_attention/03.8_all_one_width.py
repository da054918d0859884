"""Counts acc and the scores with the bytes of Q: they are float32."""
most = (memory // bytes_per_value - 2 * block_k * d) // (2 * d + block_k + 2)
return -(-n_q // -(-n_q // most))
