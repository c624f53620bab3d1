"""Threads that work for a while when they are told to: `on_cpu.py KIND SECONDS`.

Says {"tids": {TID: NAME}} once all are at rest, and `done` once they are at rest again.
"""

import asyncio
import hashlib
import json
import os
import queue
import sys
import threading
import time

KIND, SECONDS = sys.argv[1], float(sys.argv[2])
BLOCK = b"x" * (1 << 18)
tids = {}
up, done = threading.Semaphore(0), threading.Semaphore(0)
begin, never = threading.Event(), threading.Event()


def start(name, work):
    def run():
        tids[threading.get_native_id()] = name
        up.release()
        begin.wait()
        work(time.monotonic() + SECONDS)
        done.release()
        never.wait()

    threading.Thread(target=run, daemon=True).start()


def hash_blocks(end):
    while time.monotonic() < end:
        hashlib.sha256(BLOCK).digest()


def count(end):
    while time.monotonic() < end:
        sum(range(1000))


def nap(end):
    while time.monotonic() < end:
        time.sleep(0.0005)


def pipes():
    (to_second, from_first), (to_first, from_second) = os.pipe(), os.pipe()

    def first(end):
        while time.monotonic() < end:
            os.write(from_first, b"x")
            os.read(to_first, 1)
        os.write(from_first, b"e")

    def second(end):
        while os.read(to_second, 1) == b"x":
            os.write(from_second, b"x")

    start("first", first)
    start("second", second)


def loop(end):
    async def step():
        while time.monotonic() < end:
            await asyncio.sleep(0.001)
            await asyncio.to_thread(hashlib.sha256, BLOCK)

    async def main():
        await asyncio.gather(*(step() for _ in range(4)))

    asyncio.run(main())


def queues():
    jobs = queue.Queue(4)

    def produce(end):
        while time.monotonic() < end:
            jobs.put(BLOCK)
        jobs.put(None)

    def consume(end):
        while (job := jobs.get()) is not None:
            hashlib.sha256(job).digest()

    start("produce", produce)
    start("consume", consume)


if KIND == "pipes":
    pipes()
    start("hash 1", hash_blocks)
    start("hash 2", hash_blocks)
elif KIND == "gil":
    for number in range(3):
        start(f"count {number}", count)
    start("nap", nap)
elif KIND == "loop":
    start("loop", loop)
    queues()
    start("nap", nap)

expected = threading.active_count() - 1
for _ in range(expected):
    up.acquire()
print(json.dumps({"tids": tids}), flush=True)
sys.stdin.readline()
begin.set()
for _ in range(expected):
    done.acquire()
print("done", flush=True)
sys.stdin.readline()
