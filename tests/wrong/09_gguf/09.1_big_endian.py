"""Reads the numbers with the highest byte first, as networks send them."""
version, tensors, keys = struct.unpack_from(">IQQ", data, 4)
left = len(data) - HEADER_BYTES
most_tensors, most_keys = left // LEAST_TENSOR_BYTES, left // LEAST_KEY_BYTES
