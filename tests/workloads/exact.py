"""Tasks of known outcomes and lives, counted and timed by the program itself.

The argument is the kind of loop: asyncio, eager (its tasks begin to run as they are made), uvloop
(from the folder that is the second argument). `run` makes the tasks, keeps half of them, and answers
with what became of each name.
`spin` makes short tasks all the time, until the next command.
"""

import asyncio
import os
import sys
import threading
import time
from collections import Counter

from account import commands, say

KIND = sys.argv[1]
ROUNDS = 50

done = {}
lives = {}
kept = []


async def live(name, seconds, fail):
    if seconds:
        await asyncio.sleep(seconds)
    if fail:
        raise ValueError(name)


# One coroutine a name, so that tasks are named after it.
async def steady(begun, fail):
    await live("steady", 0.001, fail)


async def tenth(begun, fail):
    await live("tenth", 1.0, fail)


async def at_once(begun, fail):
    await live("at_once", 0, fail)


async def half(begun, fail):
    await live("half", 0.001, fail)


async def endless(begun, fail):
    await live("endless", 3600, fail)


def ended(name, begun, task):
    lives.setdefault(name, []).append(time.monotonic() - begun)
    if task.cancelled():
        outcome = "cancelled"
    elif task.exception() is not None:
        outcome = "failed"
    else:
        outcome = "finished"
    done.setdefault(name, Counter())[outcome] += 1


def new_task(coroutine):
    loop = asyncio.get_running_loop()
    if KIND == "eager":
        return asyncio.Task(coroutine, loop=loop, eager_start=True)
    return loop.create_task(coroutine)


def make(index):
    made = []
    for name, coroutine, named, fail in [
        ("steady", steady, None, False),
        ("tenth", tenth, None, index % 10 == 0),
        ("at_once", at_once, None, False),
        ("half-#", half, "half-%d" % index, index % 2 == 0),
        ("endless", endless, None, False),
    ]:
        begun = time.monotonic()
        task = new_task(coroutine(begun, fail))
        if named:
            task.set_name(named)
        # A callback of a task that has ended already is called by the loop, later.
        task.add_done_callback(lambda task, name=name, begun=begun: ended(name, begun, task))
        if name == "endless":
            endless_tasks.append(task)
        made.append(task)
        if index % 2:
            kept.append(task)
    return made


endless_tasks = []


async def run():
    made = []
    for index in range(ROUNDS):
        made += make(index)
        await asyncio.sleep(0.002)
    for task in endless_tasks:
        task.cancel()
    await asyncio.gather(*made, return_exceptions=True)
    await asyncio.sleep(0)
    say(
        account="ran",
        made=ROUNDS,
        done=done,
        lives={name: [min(of), max(of), sum(of)] for name, of in lives.items()},
    )


async def short():
    await asyncio.sleep(0)


async def spin(stop):
    count = 0
    while not stop.is_set():
        await asyncio.gather(*[asyncio.get_running_loop().create_task(short()) for _ in range(20)])
        count += 20
    say(account="spun", count=count)


async def main():
    loop = asyncio.get_running_loop()
    listening = commands()
    while True:
        command = await loop.run_in_executor(None, lambda: next(listening, None))
        if command is None:
            return
        if command["do"] == "run":
            await run()
        else:
            stop = threading.Event()
            spinning = loop.create_task(spin(stop))
            await loop.run_in_executor(None, lambda: next(listening, None))
            stop.set()
            await spinning


if KIND == "uvloop":
    sys.path.insert(0, sys.argv[2])
    import uvloop

    uvloop.install()
say(account="ready", pid=os.getpid())
asyncio.run(main())
