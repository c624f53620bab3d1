"""Threads that go from a lock to a queue and back, never long in one place."""
import json
import queue
import sys
import threading
import time

lock, again, items = threading.Lock(), threading.RLock(), queue.Queue()


def toil():
    while True:
        with lock:
            time.sleep(0.0002)
        items.get()
        with again:
            time.sleep(0.0002)


def feed():
    while True:
        for _ in range(6):
            items.put(1)
        time.sleep(0.002)


for _ in range(6):
    threading.Thread(target=toil, daemon=True).start()
threading.Thread(target=feed, daemon=True).start()
legal = [
    ["Lock", "Contended", id(lock)],
    ["RLock", "Contended", id(again)],
    ["Queue", "Item", id(items)],
    ["Lock", "Contended", id(items.mutex)],
]
print(json.dumps(legal), flush=True)
sys.stdin.read()
