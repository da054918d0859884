"""Limits both counts to a number that looks large enough."""
version, tensors, keys = struct.unpack_from("<IQQ", data, 4)
most_tensors = most_keys = 100_000
