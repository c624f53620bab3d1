"""Steps in the middle of other steps, and how long each was.

usage: steps.py MODE...

eager   a task that makes eager tasks, which block before their first await
nested  a task that runs the loop itself (nest_asyncio) until another one has ended, which blocks now and then

A line on stdin: says the blocks so far, with the name that the task had meanwhile.
"""

import asyncio
import os
import sys
import threading
import time

from account import say

stalls = []


def block(kind):
    task = asyncio.current_task().get_name()
    begin = time.monotonic_ns()
    if kind == "sleep":
        time.sleep(0.15)
    else:
        while time.monotonic_ns() < begin + 150_000_000:
            pass
    stalls.append(
        dict(kind=kind, function="inner", begin_ns=begin, end_ns=time.monotonic_ns(), task=task)
    )


async def inner(kind):
    block(kind)
    await asyncio.sleep(0.01)


async def outer():
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    kept = []
    for _ in range(10_000):
        kept[:-4] = []
        for kind in ("sleep", "cpu"):
            kept.append(loop.create_task(inner(kind)))
        await asyncio.sleep(0.4)


async def again():
    for number in range(10_000):
        block(("sleep", "cpu")[number % 2])
        await asyncio.sleep(0.4)


async def nesting():
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0.1)
    task = loop.create_task(again(), name="inner")
    loop.run_until_complete(task)


def listen():
    for _ in sys.stdin:
        say(account="stalls", stalls=list(stalls))
    os._exit(0)


async def main(mode):
    if mode == "nested":
        import nest_asyncio

        nest_asyncio.apply()
    job = outer() if mode == "eager" else nesting()
    task = asyncio.get_running_loop().create_task(job, name="outer")
    threading.Thread(target=listen, daemon=True).start()
    say(account="ready", pid=os.getpid())
    await task


asyncio.run(main(sys.argv[1]))
