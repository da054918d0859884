"""Reads each number with int.from_bytes."""
version = int.from_bytes(data[4:8], "little")
tensors, keys = int.from_bytes(data[8:16], "little"), int.from_bytes(data[16:24], "little")
left = len(data) - 24
most_tensors, most_keys = left // 32, left // 13
