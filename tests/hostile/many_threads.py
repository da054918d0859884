"""Starts threads until it is stopped."""
import threading
import time

started = 0
while True:
    try:
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        started += 1
    except BaseException:
        time.sleep(0.01)
