"""A program that misbehaves in known ways, to be watched by concmon.

usage: misbehave.py [SECONDS]   (default 60; ends cleanly on SIGTERM before that)

    thread gil-fighter-1..3     compute without end and take the GIL from everybody
    thread lock-hog             holds a lock for 400 ms at a time
    thread lock-waiter-1..2     need the same lock for a moment
    thread crunch_0..1          a pool whose jobs fail; nobody ever looks at the results
    thread sleeper              sleeps nearly all the time
    thread web-loop             an event loop with these tasks:
        task heartbeat          wants to run every 50 ms, and cannot
        task blocks-the-loop    calls time.sleep(0.3) inside a coroutine, for request r-1, r-2, ...
        task warms-the-cache    fails; it is kept, and nobody ever asks for its exception
        task slow-handler-1..3  await a chain of coroutines
        task queue-consumer     waits for work that comes seldom
    child process               sleeps, and computes a little

It prints nothing and uses the standard library only. Python 3.8 or later.
"""

import asyncio
import concurrent.futures
import contextvars
import os
import signal
import subprocess
import sys
import threading
import time

LEDGER_LOCK = threading.Lock()
REQUEST_ID = contextvars.ContextVar("request_id")

# Ends when it is orphaned, should its parent be killed.
CHILD = """
import os, time
parent = os.getppid()
while os.getppid() == parent:
    sum(i * i for i in range(50000))
    time.sleep(0.2)
"""


def fight_for_the_gil():
    total = 0
    while True:
        for i in range(10_000):
            total = (total + i * i) % 1_000_003


def hold_lock_too_long():
    while True:
        with LEDGER_LOCK:
            time.sleep(0.4)
        time.sleep(0.01)


def wait_for_lock():
    while True:
        with LEDGER_LOCK:
            pass
        time.sleep(0.01)


def sleep_mostly():
    while True:
        time.sleep(0.5)


def fail_silently(number):
    time.sleep(0.05)
    raise ValueError("job %d failed and nobody noticed" % number)


def feed_pool(pool):
    number = 0
    while True:
        number += 1
        pool.submit(fail_silently, number)
        time.sleep(0.1)


async def heartbeat():
    while True:
        await asyncio.sleep(0.05)


async def block_the_loop():
    number = 0
    while True:
        await asyncio.sleep(0.5)
        number += 1
        REQUEST_ID.set("r-%d" % number)
        read_config_synchronously()


def read_config_synchronously():
    time.sleep(0.3)


async def handle_request():
    while True:
        await query_database()


async def query_database():
    await wait_for_reply()


async def wait_for_reply():
    await asyncio.sleep(0.8)


async def produce(queue):
    while True:
        await asyncio.sleep(1.0)
        queue.put_nowait("work")


async def consume(queue):
    while True:
        await queue.get()


async def warm_cache():
    await asyncio.sleep(0.2)
    raise LookupError("the cache is cold")


async def serve():
    queue = asyncio.Queue()
    forgotten = asyncio.ensure_future(warm_cache())
    forgotten.set_name("warms-the-cache")
    named = [
        ("heartbeat", heartbeat()),
        ("blocks-the-loop", block_the_loop()),
        ("slow-handler-1", handle_request()),
        ("slow-handler-2", handle_request()),
        ("slow-handler-3", handle_request()),
        ("queue-producer", produce(queue)),
        ("queue-consumer", consume(queue)),
    ]
    tasks = []
    for name, coroutine in named:
        task = asyncio.ensure_future(coroutine)
        task.set_name(name)
        tasks.append(task)
    await asyncio.gather(*tasks)


def run_web_loop():
    asyncio.new_event_loop().run_until_complete(serve())


def start(name, target, *args):
    threading.Thread(target=target, name=name, args=args, daemon=True).start()


def remove_own_copy():
    """Removes the copy that concmon wrote for this run, which nobody else would if concmon is killed."""
    folder = os.path.dirname(os.path.abspath(sys.argv[0]))
    if os.path.basename(folder).startswith("concmon-demo-"):
        os.remove(sys.argv[0])
        os.rmdir(folder)


def main():
    remove_own_copy()
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    # Blocked here and taken up below, so that a signal never lands inside other code.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for i in range(1, 4):
            start("gil-fighter-%d" % i, fight_for_the_gil)
        start("lock-hog", hold_lock_too_long)
        for i in range(1, 3):
            start("lock-waiter-%d" % i, wait_for_lock)
        pool = concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix="crunch")
        start("pool-feeder", feed_pool, pool)
        start("sleeper", sleep_mostly)
        start("web-loop", run_web_loop)
        signal.sigtimedwait({signal.SIGTERM, signal.SIGINT}, seconds)
    finally:
        child.kill()
        child.wait()
    # The threads never end: leave without waiting for them.
    os._exit(0)


main()
