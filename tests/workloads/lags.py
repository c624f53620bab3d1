"""A loop with a load, and timers at instants of a grid that tell how late they were.

usage: lags.py [--loop asyncio|uvloop|trio] LOAD [--blocking] [--tasks N]

LOAD: percent of the loop's time in steps of 1 ms; 100: steps that never sleep, by N tasks. --blocking: a task
blocks now and then, for 120 to 300 ms, half of the times in time.sleep, half on the CPU. A line on stdin: says
how late the timers were so far: (instant, lateness), by CLOCK_MONOTONIC, ns.

A timer of asyncio and uvloop is a callback, one of trio a task.
"""

import argparse
import os
import random
import sys
import threading
import time

from account import say

GRID = 0.003
AHEAD = 1.0

late = []


def record(due):
    now = time.monotonic_ns()
    # uvloop counts in whole milliseconds, and may be early.
    late.append((now, max(0, now - int(due * 1e9))))


def burn(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


async def load(share, step=0.001):
    while True:
        burn(step)
        if share < 1:
            await sleep(step / share - step)
        else:
            await switch()


async def blocking():
    for number in range(1_000_000):
        await sleep(random.uniform(0.3, 0.9))
        (time.sleep if number % 2 else burn)(random.uniform(0.12, 0.3))


def jobs():
    yield from (load(options.load / 100) for _ in range(options.tasks))
    if options.blocking:
        yield blocking()


async def sow(timer):
    """Makes timers, some time ahead."""
    due = time.monotonic() + AHEAD
    while True:
        while due < time.monotonic() + AHEAD + 0.05:
            timer(due)
            due += GRID
        await sleep(0.05)


def listen():
    for _ in sys.stdin:
        say(account="lags", late=list(late))
    os._exit(0)


def ready():
    threading.Thread(target=listen, daemon=True).start()
    say(account="ready", pid=os.getpid())


parser = argparse.ArgumentParser()
parser.add_argument("--loop", default="asyncio")
parser.add_argument("load", type=int)
parser.add_argument("--blocking", action="store_true")
parser.add_argument("--tasks", type=int, default=1)
options = parser.parse_args()
if options.loop == "trio":
    import trio

    sleep, switch = trio.sleep, trio.lowlevel.checkpoint

    async def timer(ahead, due):
        await trio.sleep_until(due + ahead)
        record(due)

    async def run(job):
        await job

    async def main():
        ahead = trio.current_time() - time.monotonic()
        async with trio.open_nursery() as nursery:
            for job in jobs():
                nursery.start_soon(run, job)
            nursery.start_soon(sow, lambda due: nursery.start_soon(timer, ahead, due))
            ready()

    trio.run(main)
else:
    import asyncio

    sleep = asyncio.sleep

    def switch():
        return asyncio.sleep(0)

    async def main():
        loop = asyncio.get_running_loop()

        def timer(due):
            loop.call_at(due, record, due)

        tasks = [loop.create_task(job) for job in jobs()]
        tasks.append(loop.create_task(sow(timer)))
        ready()
        await asyncio.wait(tasks)

    if options.loop == "uvloop":
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(main())
