"""One thread keeps the GIL in C, another one a lock while it sleeps; two others want them all the time."""

import json
import os
import re
import threading
import time

lock = threading.RLock()


def gil_hog():
    while True:
        re.match(r"(a+)+$", "a" * 19 + "b")
        time.sleep(0.001)


def lock_hog():
    while True:
        with lock:
            time.sleep(0.2)
        time.sleep(0.001)


def lock_victim():
    while True:
        with lock:
            pass
        time.sleep(0.005)


def gil_victim():
    number = 0
    while True:
        for _ in range(1000):
            number += 1
        time.sleep(0.0005)


for work in (gil_hog, lock_hog, lock_victim, gil_victim):
    threading.Thread(target=work, name=work.__name__, daemon=True).start()
print(json.dumps({"account": "ready", "pid": os.getpid()}), flush=True)
threading.Event().wait()
