"""Takes the first count for that of the keys, since metadata come first."""
version, keys, tensors = struct.unpack_from("<IQQ", data, 4)
left = len(data) - HEADER_BYTES
most_tensors, most_keys = left // LEAST_TENSOR_BYTES, left // LEAST_KEY_BYTES
