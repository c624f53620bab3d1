"""Steps in the middle of other steps, and how long each was.

usage: steps.py MODE...

eager   a task that makes eager tasks, which block before their first await
nested  a task that runs the loop itself (nest_asyncio) until another one has ended, which blocks now and then

A line on stdin: says the blocks so far, with the name of the task that blocked.
"""

import asyncio
import os
import sys
import threading
import time

from account import say

stalls = []


def block(kind, task):
    begin = time.monotonic_ns()
    if kind == "sleep":
        time.sleep(0.15)
    else:
        while time.monotonic_ns() < begin + 150_000_000:
            pass
    stalls.append(
        dict(kind=kind, function="inner", begin_ns=begin, end_ns=time.monotonic_ns(), task=task)
    )


async def inner(number, kind):
    block(kind, "inner %s" % number)
    await asyncio.sleep(0.01)


async def outer():
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    kept = []
    for number in "abcdefghij" * 1_000:
        kept[:-4] = []
        for kind in ("sleep", "cpu"):
            name = "inner %s %s" % (number, kind)
            kept.append(loop.create_task(inner(number + " " + kind, kind), name=name))
        await asyncio.sleep(0.4)


async def again():
    for number in range(10_000):
        block(("sleep", "cpu")[number % 2], "inner")
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
