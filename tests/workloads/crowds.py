"""Many tasks that many wait for, all parked. Takes commands from standard input and answers each.

usage: crowds.py KIND [TASKS [WAITERS]]

KIND says how they are waited for:
plain: each by itself, on a sleep. gathers, waits: by as many `asyncio.gather`s or `asyncio.wait`s over all of
them. group: by one TaskGroup. callbacks: all wait for one future. chain: each for the one made before it.
changes: as plain, but each tenth ends and another takes its place again and again. nursery: trio's, all in
one.

{"waiters": N}: the names of those that wait for the first N tasks, by the names of these.
"""

import asyncio
import itertools
import json
import os
import sys
import threading

from account import say

KIND = sys.argv[1]
TASKS = int(sys.argv[2]) if len(sys.argv) > 2 else 20000
WAITERS = int(sys.argv[3]) if len(sys.argv) > 3 else 50

# The names of tasks that wait for a task, by its name.
waiters = {}


async def parked():
    await asyncio.sleep(36000)


async def awaits(awaitable):
    await awaitable


async def gathers(tasks):
    await asyncio.gather(*tasks)


async def waits(tasks):
    await asyncio.wait(tasks)


async def groups(count):
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            name_task(group.create_task(parked()), "member-%d" % number)
            waiters["member-%d" % number] = ["group"]


def name_task(task, name):
    task.set_name(name)
    return task


def start(coroutine, name):
    return name_task(asyncio.ensure_future(coroutine), name)


def park(count):
    return [start(parked(), "task-%d" % number) for number in range(count)]


async def changes(tasks):
    numbers = itertools.count(len(tasks))
    while True:
        for index in range(0, len(tasks), 10):
            tasks[index].cancel()
            tasks[index] = start(parked(), "task-%d" % next(numbers))
            if index % 500 == 0:
                await asyncio.sleep(0.001)


async def main():
    kept = []
    if KIND in ("gathers", "waits"):
        tasks = park(TASKS)
        wait = gathers if KIND == "gathers" else waits
        names = ["waiter-%d" % number for number in range(WAITERS)]
        kept = [start(wait(tasks), name) for name in names]
        waiters.update((task.get_name(), names) for task in tasks)
    elif KIND == "group":
        kept = [start(groups(TASKS), "group")]
    elif KIND == "callbacks":
        future = asyncio.get_event_loop().create_future()
        kept = [start(awaits(future), "task-%d" % number) for number in range(TASKS)]
    elif KIND == "chain":
        kept = [start(parked(), "task-0")]
        for number in range(1, TASKS):
            kept.append(start(awaits(kept[-1]), "task-%d" % number))
            waiters["task-%d" % (number - 1)] = ["task-%d" % number]
    else:
        kept = park(TASKS)
        if KIND == "changes":
            start(changes(kept), "changes")
    for _ in range(3):
        await asyncio.sleep(0)
    say(account="ready", pid=os.getpid(), kept=len(kept))
    await asyncio.get_event_loop().create_future()


def in_a_nursery():
    import trio

    async def nursery():
        async with trio.open_nursery() as nursery:
            for number in range(TASKS):
                nursery.start_soon(trio.sleep_forever, name="task-%d" % number)
            await trio.sleep(0.1)
            say(account="ready", pid=os.getpid())

    trio.run(nursery)


def takes_commands():
    for line in sys.stdin:
        count = json.loads(line)["waiters"]
        first = sorted(waiters)[:count]
        say(account="waiters", waiters={name: waiters[name] for name in first})
    os._exit(0)


threading.Thread(target=takes_commands, daemon=True).start()
if KIND == "nursery":
    in_a_nursery()
else:
    asyncio.run(main())
