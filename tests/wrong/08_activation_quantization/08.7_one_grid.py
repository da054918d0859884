"""Gives all rows one grid."""
lowest, highest = (np.broadcast_to(edge, (*x.shape[:-1], 1)) for edge in (x.min(), x.max()))
scale, minimum = as_half((highest - lowest) / np.float32(15)), as_half(lowest)
codes = np.clip(np.rint((x - minimum) / never_zero(scale)), 0, 15).astype(np.uint8)
half = x.shape[-1] // 2
return joined(codes[..., :half] | codes[..., half:] << 4, scale, minimum)
