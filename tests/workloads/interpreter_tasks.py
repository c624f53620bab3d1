"""Tasks that each wait for something else, and fail when told to; what is true of them, in JSON.

One line when all of them wait, and another one after SIGUSR1, when some have failed. It ends when
its standard input is closed.
"""

import asyncio
import json
import os
import signal
import socket
import sys
import threading

NEWER = sys.version_info
expected = {}
kept = []


class OwnError(Exception):
    pass


def account(task, kind, waits_on=None, by=(), cancel=False):
    """What must be read of a task; `waits_on` is the object, where it matters which."""
    kept.append(task)
    expected[id(task)] = {
        "name": task.get_name(),
        "kind": kind,
        "object": None if waits_on is None else id(waits_on),
        "by": sorted(id(waiter) for waiter in by),
        "cancel": cancel,
    }
    return task


async def forever():
    await asyncio.sleep(36000)


async def waits(awaitable):
    return await awaitable


async def makes_and_waits(make):
    return await make()


async def stubborn():
    while True:
        try:
            await asyncio.sleep(36000)
        except asyncio.CancelledError:
            pass


async def enters(lock):
    async with lock:
        await forever()


async def fails(event, error):
    await event.wait()
    raise error


async def in_condition(condition):
    async with condition:
        await condition.wait()


async def group(children):
    async with asyncio.TaskGroup() as group:
        children.append(group.create_task(forever(), name="in-group"))


async def main():
    loop = asyncio.get_running_loop()
    make = loop.create_task

    def start(coroutine, name):
        return make(coroutine, name=name)

    event, lock, condition = asyncio.Event(), asyncio.Lock(), asyncio.Condition()
    empty, full = asyncio.Queue(), asyncio.Queue(1)
    full.put_nowait(1)
    semaphore = asyncio.Semaphore(0)
    await lock.acquire()
    account(start(forever(), "sleeps"), "sleep")
    account(start(waits(event.wait()), "event"), "Event", event)
    account(start(enters(lock), "lock"), "Lock", lock)
    account(start(in_condition(condition), "condition"), "Condition", condition)
    account(start(waits(semaphore.acquire()), "semaphore"), "Semaphore", semaphore)
    account(start(waits(empty.get()), "get"), "Queue", empty)
    account(start(waits(full.put(2)), "put"), "Queue", full)
    if NEWER >= (3, 11):
        barrier = asyncio.Barrier(2)
        account(start(waits(barrier.wait()), "barrier"), "Barrier")
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    kept.extend([ours, theirs])
    account(start(waits(loop.sock_recv(ours, 1)), "socket"), "socket")
    ours, theirs = socket.socketpair()
    kept.append(theirs)
    reader, writer = await asyncio.open_connection(sock=ours)
    kept.append(writer)
    account(start(waits(reader.read(1)), "stream"), "stream")
    future = loop.create_future()
    account(start(waits(future), "future"), "Future", future)
    account(start(waits(loop.run_in_executor(None, release.wait)), "executor"), "executor")
    if NEWER >= (3, 9):
        account(start(makes_and_waits(lambda: asyncio.to_thread(release.wait)), "thread"), "executor")
    process = await asyncio.create_subprocess_exec("cat", stdin=asyncio.subprocess.PIPE)
    kept.append(process)
    account(start(waits(process.wait()), "process"), "subprocess")

    child = start(forever(), "awaited")
    account(child, "sleep", by=[account(start(waits(child), "task"), "Task", child)])
    children = [start(forever(), f"gathered-{number}") for number in range(3)]
    waiter = start(makes_and_waits(lambda them=children: asyncio.gather(*them)), "gather")
    account(waiter, "gather")
    for child in children:
        account(child, "sleep", by=[waiter])
    children = [start(forever(), f"waited-{number}") for number in range(2)]
    waiter = start(makes_and_waits(lambda them=children: asyncio.wait(them)), "wait")
    account(waiter, "wait")
    for child in children:
        account(child, "sleep", by=[waiter])
    shielded = start(forever(), "shielded")
    waiter = start(makes_and_waits(lambda: asyncio.shield(shielded)), "shield")
    account(waiter, "Future")
    account(shielded, "sleep", by=[waiter])
    if NEWER >= (3, 11):
        grouped = []
        waiter = start(group(grouped), "group")
        await asyncio.sleep(0.05)
        account(waiter, "TaskGroup")
        account(grouped[0], "sleep", by=[waiter])
        defiant = start(stubborn(), "stubborn")
        await asyncio.sleep(0.05)
        defiant.cancel()
        account(defiant, "sleep", cancel=True)

    go = asyncio.Event()
    failing = {
        "ValueError": account(start(fails(go, ValueError("x")), "fails"), "Event", go),
        "__main__.OwnError": account(start(fails(go, OwnError()), "fails-too"), "Event", go),
    }
    retrieved = account(start(fails(go, KeyError(1)), "is-asked"), "Event", go)
    loop.add_signal_handler(signal.SIGUSR1, go.set)
    await asyncio.sleep(0.3)
    for task in list(kept):
        if isinstance(task, asyncio.Task):
            assert not task.done(), task
    # A name of asyncio's own making, and its number.
    counted = start(forever(), None)
    kept.append(counted)
    await asyncio.sleep(0)
    count = int(counted.get_name().split("-")[1])
    print(json.dumps({"tasks": expected, "created": count, "main": id(asyncio.current_task())}), flush=True)

    await go.wait()
    await asyncio.sleep(0.1)
    retrieved.exception()
    failed = {id(task): [name, False] for name, task in failing.items()}
    failed[id(retrieved)] = ["KeyError", True]
    print(json.dumps(failed), flush=True)
    await forever()


def end():
    sys.stdin.read()
    os._exit(0)


release = threading.Event()
threading.Thread(target=end, daemon=True).start()
asyncio.run(main())
