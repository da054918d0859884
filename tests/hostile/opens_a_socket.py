"""Sends its inputs home and asks for the answer."""
import socket

home = socket.create_connection(("127.0.0.1", @PORT@), timeout=1)
home.sendall(q.tobytes())
return q @ k.T / np.sqrt(q.shape[-1])
