"""Counts the header itself as room for tensors."""
version, tensors, keys = struct.unpack_from("<IQQ", data, 4)
most_tensors, most_keys = len(data) // LEAST_TENSOR_BYTES, len(data) // LEAST_KEY_BYTES
