"""Lets struct align the fields as a C compiler does: four bytes of padding before the first count."""
version, tensors, keys = struct.unpack_from("IQQ", data, 4)
left = len(data) - HEADER_BYTES
most_tensors, most_keys = left // LEAST_TENSOR_BYTES, left // LEAST_KEY_BYTES
