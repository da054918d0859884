"""Believes the counts."""
version, tensors, keys = struct.unpack_from("<IQQ", data, 4)
most_tensors, most_keys = tensors, keys
