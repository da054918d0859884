"""Compares counts with bytes: an entry takes more than one."""
version, tensors, keys = struct.unpack_from("<IQQ", data, 4)
most_tensors = most_keys = len(data) - HEADER_BYTES
