"""Tell a submission in words what it may not do: an audit hook (PEP 578), which Python cannot take off again.

    writing anywhere but in the child's own temporary folder      always refused
    reading the reference or the private tests                    always refused
    opening a folder, or ".." on the way                          refused: with dir_fd, a path means another place than it says
    a process, a socket, a shared library, a signal               refused to the submission, not to what it imports

Who asks is found on the stack: the first caller outside the standard library. Code that reaches into the interpreter, and native
code, are out of its sight: the wall is the kernel's (jail.py), and this says why, with the line, where it can.
"""

import os
import sys
import sysconfig

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {
    "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.chown", "os.truncate", "os.utime",
    "os.setxattr", "os.removexattr", "os.mkfifo", "os.mknod",
}  # fmt: skip
ACTS = {
    "subprocess.Popen", "os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.kill", "os.killpg",
    "socket.__new__", "socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "signal.pthread_kill", "pty.spawn",
    "ctypes.dlopen", "ctypes.dlsym", "ctypes.call_function", "ctypes.cdata", "ctypes.string_at", "sys.setprofile", "sys.settrace",
    "gc.get_objects", "gc.get_referrers", "gc.get_referents", "sys._current_frames", "code.__new__", "object.__setattr__",
}  # fmt: skip


def install(writable, secret, submission):
    """Install the guard. writable: the one folder to write in. secret: folders not to read. submission: the tested folder."""
    writable, submission = os.path.realpath(writable), os.path.realpath(submission)
    secret = [os.path.realpath(folder) for folder in secret]
    library = os.path.realpath(sysconfig.get_path("stdlib"))
    packages = [os.path.realpath(path) for path in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))]

    realpath, isdir, fsdecode = os.path.realpath, os.path.isdir, os.fsdecode  # bound now: names can be replaced

    def inside(path, folder):
        return path == folder or path.startswith(folder + os.sep)

    def real(path):
        return realpath(fsdecode(path))

    def turns(path):
        if os.pardir in fsdecode(path).split(os.sep):
            raise PermissionError(f"a submission may not go through '..', as in {fsdecode(path)}")

    def asks():
        """File of the first caller that is not the standard library; "" where there is none."""
        frame = sys._getframe(2)
        while frame is not None:
            name = frame.f_code.co_filename
            if not name.startswith("<frozen") and (not inside(name, library) or any(inside(name, p) for p in packages)):
                return name
            frame = frame.f_back
        return ""

    def hook(event, args):
        if event == "open":
            path, mode, flags = args
            if isinstance(path, int) or path is None:
                return
            where = real(path)
            if mode is None:  # os.open, whose dir_fd the event does not tell
                if isdir(where) and not inside(where, writable):
                    raise PermissionError(f"a submission may not open the folder {where}")
                turns(path)
            writes = (mode and set(mode) & set("wax+")) or (flags or 0) & WRITES
            if writes and not inside(where, writable) and where != os.devnull:
                raise PermissionError(f"a submission may not write {where}")
            if any(inside(where, folder) for folder in secret):
                raise PermissionError(f"a submission may not read {where}")
        elif event in CHANGES:
            for path in args[:2]:
                if isinstance(path, str | bytes):
                    turns(path)
                if isinstance(path, str | bytes) and not inside(real(path), writable):
                    raise PermissionError(f"a submission may not change {os.fsdecode(path)}")
        elif event in ACTS and (event != "object.__setattr__" or args[1] == "__code__"):
            name = asks()
            if not name or not os.path.isabs(name) or inside(name, submission):
                raise PermissionError(f"a submission may not use {event}")

    sys.addaudithook(hook)
