"""A program with one of everything that a look reads, for recorded memory images.

It runs from Python 3.8 on, says `ready` once everything in it stands still, and ends when its
standard input is closed. What it imports is little, for every module makes the image larger.
"""

import asyncio
import concurrent.futures
import contextvars
import functools
import os
import queue
import sys
import threading
import time

request_id = contextvars.ContextVar("request_id")
release = threading.Event()
lock = threading.Lock()
rlock = threading.RLock()
condition = threading.Condition()
semaphore = threading.Semaphore(0)
jobs = queue.Queue()
simple_jobs = queue.SimpleQueue()
kept = []
in_place = threading.Semaphore(0)


def park(*_):
    release.wait()


class Worker:
    def method(self):
        park()

    def __call__(self):
        park()


class OwnRun(threading.Thread):
    def run(self):
        self.nested(3)

    def nested(self, depth):
        if depth:
            self.nested(depth - 1)
        else:
            park()


def holds_locks():
    with lock, rlock, rlock:
        in_place.release()
        park()


def takes(what):
    with what:
        park()


def waits():
    with condition:
        condition.wait()


def start(target, name, *arguments, **options):
    thread = threading.Thread(target=target, args=arguments, name=name, **options)
    thread.start()
    return thread


async def leaf():
    await asyncio.sleep(3600)


async def middle(depth):
    if depth:
        await middle(depth - 1)
    else:
        await leaf()


async def numbers():
    for number in range(3):
        yield number
        await asyncio.sleep(3600)


async def iterates():
    async for _ in numbers():
        pass


class Awaitable:
    def __await__(self):
        return (yield from asyncio.get_running_loop().create_future())


async def awaits_object():
    await Awaitable()


async def gathers():
    await asyncio.gather(leaf(), middle(1))


async def waits_for():
    await asyncio.wait_for(leaf(), 7200)


async def takes_lock(held):
    async with held:
        await asyncio.sleep(3600)


async def awaits(what):
    await what


async def request(value):
    request_id.set(value)
    await middle(2)


async def in_executor():
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, park)


async def fails():
    raise ValueError("on purpose")


async def returns():
    return 1


async def stubborn():
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await asyncio.Event().wait()


async def many_locals():
    a, b, c, d, e, f, g, h, i, j, k, l, m = range(13)
    return (a, b, c, [d, e, (f, g, h, await leaf())], i, j, k, l, m)


async def scenario():
    loop = asyncio.get_running_loop()
    make = loop.create_task
    held = asyncio.Lock()
    cancelled = make(stubborn(), name="stubborn")
    kept.extend(
        [
            held,
            cancelled,
            make(leaf()),
            make(leaf(), name="n\u00e4me \u4e16\u754c \U0001f40d"),
            make(leaf(), name="long " + "x" * 2000),
            make(middle(5), name="deep"),
            make(iterates(), name="iterates"),
            make(awaits_object(), name="object"),
            make(awaits(asyncio.Queue().get()), name="queue"),
            make(awaits(asyncio.Event().wait()), name="event"),
            make(gathers(), name="gathers"),
            make(waits_for(), name="wait-for"),
            make(takes_lock(held), name="lock-holder"),
            make(takes_lock(held), name="lock-waiter"),
            make(in_executor(), name="in-executor"),
            make(many_locals(), name="many-locals"),
            make(request("abc-123"), name="request-text"),
            make(request(42), name="request-number"),
            make(fails(), name="fails"),
            make(returns(), name="returns"),
            asyncio.tasks._PyTask(middle(1), loop=loop, name="python-task"),
        ]
    )
    kept.append(make(awaits(cancelled), name="awaits-task"))
    loop.call_later(7200, park)
    await asyncio.sleep(0.05)
    cancelled.cancel()
    await asyncio.sleep(0.05)
    in_place.release()
    await asyncio.Event().wait()


async def blocks():
    kept.append(asyncio.get_running_loop().create_task(leaf(), name="beside-the-blocker"))
    await asyncio.sleep(0.01)
    in_place.release()
    park()


def report():
    in_place.acquire()
    time.sleep(1)
    print("ready", flush=True)
    sys.stdin.read()
    os._exit(0)


def main():
    start(park, "plain", 1)
    start(Worker().method, "n\u00e4me \u4e16", daemon=True)
    start(Worker(), "callable")
    start(functools.partial(park, 3), "partial")
    start(time.sleep, "builtin", 3600)
    start(simple_jobs.get, "simple-queue")
    OwnRun(name="own-run", daemon=True).start()
    holder = start(holds_locks, "holds-locks")
    in_place.acquire()
    start(waits, "condition")
    start(semaphore.acquire, "semaphore")
    start(jobs.get, "consumer")
    start(holder.join, "joins")
    start(asyncio.run, "second-loop", blocks())
    in_place.acquire()
    pool = concurrent.futures.ThreadPoolExecutor(2, "pool")
    idle = concurrent.futures.ThreadPoolExecutor(2, "idle")
    kept.extend([pool, idle, idle.submit(int)])
    kept.extend(pool.submit(park, number) for number in range(5))
    start(kept[-1].result, "result")
    start(takes, "takes-lock", lock)
    start(takes, "takes-rlock", rlock)
    start(report, "reporter")
    asyncio.run(scenario())


main()
