"""Puts a program into memory that has a name nowhere, and runs it."""
import ctypes
import os

libc = ctypes.CDLL(None)
fd = libc.memfd_create(b"x", 0)
if fd >= 0:
    os.write(fd, b"#!/bin/sh\ntouch @OUTSIDE@/mark\n")
    os.execve(f"/proc/self/fd/{fd}", ["x"], {})
libc.execl(b"/bin/sh", b"sh", b"-c", b"touch @OUTSIDE@/mark", None)
