"""Answers, and leaves a thread, an exit handler and a finalizer that write afterwards."""
import atexit
import threading
import time


def write(*_):
    for _ in range(50):
        try:
            open("@OUTSIDE@/mark", "w").close()
        except OSError:
            time.sleep(0.05)


class Last:
    __del__ = write


np.last = Last()
atexit.register(write)
threading.Thread(target=write).start()
return np.full((len(q), len(k)), 7.0)
