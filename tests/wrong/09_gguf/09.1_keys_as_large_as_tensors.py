"""Holds keys to the least size of a tensor."""
version, tensors, keys = struct.unpack_from("<IQQ", data, 4)
most_tensors = most_keys = (len(data) - HEADER_BYTES) // LEAST_TENSOR_BYTES
