"""Threads that block in one place each and stay there; tasks that wait. Says where, and since when.

A command blocks one more thread of each kind; its answer is the account of these.
"""

import asyncio
import os
import queue
import select
import socket
import threading
import time

from account import commands, say

account = []
wakes = []


def note(kind, cause, thing=None, owner=None):
    """The calling thread is about to block, in the function that calls this one."""
    account.append(
        {
            "tid": threading.get_native_id(),
            "name": threading.current_thread().name,
            "kind": kind,
            "cause": cause,
            "object": None if thing is None else id(thing),
            "owner": owner,
            "since_ns": time.monotonic_ns(),
        }
    )


def blocks_in_lock():
    note("Lock", "lock", held)
    held.acquire()


def blocks_in_rlock():
    note("RLock", "lock", owned, owner)
    with owned:
        pass


def blocks_in_queue():
    work = queue.Queue()
    note("Queue", "lock", work)
    work.get()


def blocks_in_event():
    never = threading.Event()
    note("Event", "lock", never)
    never.wait()


def blocks_in_join():
    note("join", "lock", None, owner)
    holder.join()


def blocks_in_sleep():
    note(None, "sleep")
    time.sleep(3600)


def blocks_in_recv():
    ours, theirs = socket.socketpair()
    wakes.append(theirs)
    note(None, "io")
    ours.recv(1)


def blocks_in_read():
    reading, writing = os.pipe()
    wakes.append(writing)
    note(None, "io")
    os.read(reading, 1)


def blocks_in_select():
    reading, writing = os.pipe()
    wakes.append(writing)
    note(None, "poll")
    select.select([reading], [], [])


def blocks_in_wait():
    child = os.spawnvp(os.P_NOWAIT, "sleep", ["sleep", "3600"])
    children.append(child)
    note(None, "child")
    os.waitpid(child, 0)


KINDS = [
    blocks_in_lock,
    blocks_in_rlock,
    blocks_in_queue,
    blocks_in_event,
    blocks_in_join,
    blocks_in_sleep,
    blocks_in_recv,
    blocks_in_read,
    blocks_in_select,
    blocks_in_wait,
]

held = threading.Lock()
held.acquire()
owned = threading.RLock()
owner = None
children = []
owns = threading.Event()


def hold():
    global owner
    with owned:
        owner = threading.get_native_id()
        owns.set()
        time.sleep(3600)


holder = threading.Thread(target=hold, name="holder", daemon=True)
holder.start()
owns.wait()


def block_all(number):
    """One thread more of each kind, and what they say."""
    before = len(account)
    for target in KINDS:
        name = "%s-%d" % (target.__name__, number)
        threading.Thread(target=target, name=name, daemon=True).start()
    while len(account) < before + len(KINDS):
        time.sleep(0.01)
    time.sleep(0.3)
    return account[before:]


async def waits_in_event(event):
    await event.wait()


async def ticks():
    """Sleeps again and again: no wait of it lasts."""
    while True:
        await asyncio.sleep(0.02)
        end = time.monotonic() + 0.005
        while time.monotonic() < end:
            pass


def run_tasks():
    async def main():
        event = asyncio.Event()
        waits = asyncio.ensure_future(waits_in_event(event))
        waits.set_name("waits")
        busy = asyncio.ensure_future(ticks())
        busy.set_name("ticks")
        await waits

    asyncio.run(main())


threading.Thread(target=run_tasks, name="loop", daemon=True).start()
first = block_all(0)
say(account="ready", pid=os.getpid(), main=threading.get_native_id(), threads=first)
for number, command in enumerate(commands(), 1):
    say(account="blocked", threads=block_all(number))
for child in children:
    os.kill(child, 9)
