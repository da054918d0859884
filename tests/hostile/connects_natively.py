"""Makes a socket with C's functions and calls home."""
import ctypes

libc = ctypes.CDLL(None, use_errno=True)
fd = libc.socket(2, 1, 0)
address = bytes([2, 0]) + (@PORT@).to_bytes(2, "big") + bytes([127, 0, 0, 1]) + bytes(8)
if fd >= 0 and libc.connect(fd, address, 16) == 0:
    return q @ k.T / np.sqrt(q.shape[-1])
