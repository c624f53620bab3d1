"""One thread per reason to block; each does one thing only, and says which cause it expects.

usage: causes.py
"""

import asyncio
import os
import queue
import select
import socket
import subprocess
import threading
import time

from account import commands, say, start

EXPECTED = {}


def expect(cause, thread):
    EXPECTED[thread.native_id] = {"name": thread.name, "cause": cause}


def every(seconds, action):
    """What helper threads do: sleep, act, again."""
    while True:
        time.sleep(seconds)
        action()


def sleeps():
    while True:
        time.sleep(0.02)


def selects_without_descriptors():
    while True:
        select.select([], [], [], 0.02)


def holds(lock):
    while True:
        with lock:
            time.sleep(0.02)
        time.sleep(0.002)


def contends(lock):
    while True:
        with lock:
            pass
        # Waiting here for the holder to come back must not be a wait of another kind.
        while not lock.locked():
            os.sched_yield()


def gets(items):
    while True:
        items.get()


def reads(fd):
    while True:
        os.read(fd, 1)


def receives(peer):
    while True:
        peer.recv(1)


def polls(fd):
    while True:
        select.select([fd], [], [])
        os.read(fd, 1)


async def naps():
    while True:
        await asyncio.sleep(0.02)


def loops():
    asyncio.new_event_loop().run_until_complete(naps())


def waits_for_children():
    while True:
        subprocess.Popen(["sleep", "2"]).wait()


def main():
    lock, items = threading.Lock(), queue.Queue()
    pipe_r, pipe_w = os.pipe()
    ready_r, ready_w = os.pipe()
    near, far = socket.socketpair()

    expect("sleep", start("sleeps", sleeps))
    expect("sleep", start("selects-without-descriptors", selects_without_descriptors))
    expect("sleep", start("holds", holds, lock))
    expect("lock", start("contends", contends, lock))
    expect("lock", start("gets", gets, items))
    expect("io", start("reads", reads, pipe_r))
    expect("io", start("receives", receives, near))
    expect("poll", start("polls", polls, ready_r))
    expect("poll", start("loops", loops))
    expect("child", start("waits-for-children", waits_for_children))

    expect("sleep", start("puts", every, 0.01, lambda: items.put(1)))
    expect("sleep", start("writes", every, 0.01, lambda: os.write(pipe_w, b"x")))
    expect("sleep", start("sends", every, 0.01, lambda: far.send(b"x")))
    expect("sleep", start("readies", every, 0.01, lambda: os.write(ready_w, b"x")))
    time.sleep(0.2)
    say(
        account="ready",
        pid=os.getpid(),
        expected=[dict(tid=tid, **what) for tid, what in EXPECTED.items()],
    )
    for _ in commands():
        pass
    os._exit(0)


main()
