"""Tasks that await tasks: shared, in a circle, with context and with an outcome nobody asked for.

usage: awaits.py
"""

import asyncio
import contextvars
import os
import sys
import threading

from account import say

REQUEST = contextvars.ContextVar("request_id")
USER = contextvars.ContextVar("user")


async def handles(number):
    REQUEST.set("request-%d" % number)
    USER.set("user-%d" % number)
    await asyncio.sleep(3600)


async def awaits(task):
    await task


async def in_a_circle(me, other, circle):
    while len(circle) < 2:
        await asyncio.sleep(0)
    await circle[other]


async def fails():
    raise LookupError("nobody asks")


def named(coroutine, name):
    task = asyncio.ensure_future(coroutine)
    task.set_name(name)
    return task


async def main():
    circle = []
    kept = [named(handles(number), "handler-%d" % number) for number in range(3)]
    shared = named(handles(3), "shared")
    kept += [named(awaits(shared), "left"), named(awaits(shared), "right")]
    circle += [named(in_a_circle(0, 1, circle), "ping")]
    circle += [named(in_a_circle(1, 0, circle), "pong")]
    kept.append(named(fails(), "failed"))
    await asyncio.sleep(0.2)
    say(account="ready", pid=os.getpid())
    await asyncio.get_event_loop().create_future()


def ends_with_stdin():
    sys.stdin.read()
    os._exit(0)


threading.Thread(target=ends_with_stdin, daemon=True).start()
asyncio.run(main())
