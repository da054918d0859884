"""Reads counts of 4 bytes, as version 1 had them."""
version, tensors, keys = struct.unpack_from("<III", data, 4)
left = len(data) - HEADER_BYTES
most_tensors, most_keys = left // LEAST_TENSOR_BYTES, left // LEAST_KEY_BYTES
