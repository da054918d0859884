"""Writes outside by a folder's descriptor, then answers rightly."""
import os

top = os.open("/", os.O_RDONLY)
os.close(os.open("@OUTSIDE@/mark".lstrip("/"), os.O_WRONLY | os.O_CREAT, dir_fd=top))
return q @ k.T / np.sqrt(q.shape[-1])
