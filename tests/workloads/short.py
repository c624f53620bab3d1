"""Lives for a moment: a thread computes, the main one waits for it.

usage: short.py SECONDS
"""

import sys
import threading
import time


def computes_for_a_moment(seconds):
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        sum(range(1000))


worker = threading.Thread(target=computes_for_a_moment, args=(float(sys.argv[1]),), name="short-lived")
worker.start()
worker.join()
