"""Threads that block on locks: an idle pool, or a queue of threads before one lock.

usage: locks.py pool THREADS | locks.py convoy THREADS Lock|RLock
"""

import concurrent.futures
import os
import sys
import threading
import time

from account import commands, say, start

HELD_S = 0.005


def pool(count):
    """Workers of which each has run one job and waits for the next, which never comes."""
    executor = concurrent.futures.ThreadPoolExecutor(count)
    barrier = threading.Barrier(count)
    for job in [executor.submit(barrier.wait) for _ in range(count)]:
        job.result()
    return [worker.native_id for worker in executor._threads], executor


def convoy(count, kind):
    """Threads that each hold the one lock for a while, again and again."""
    lock = getattr(threading, kind)()

    def hold():
        while True:
            with lock:
                time.sleep(HELD_S)

    return [start("convoy-%d" % i, hold).native_id for i in range(count)], lock


def main():
    mode, count = sys.argv[1], int(sys.argv[2])
    tids, keep = pool(count) if mode == "pool" else convoy(count, sys.argv[3])
    time.sleep(0.2)
    say(account="ready", pid=os.getpid(), threads=tids)
    for _ in commands():
        pass
    del keep
    os._exit(0)


main()
