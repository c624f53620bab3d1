"""An event loop that is stuck in one step after the other, each until somebody lets it go.

usage: frozen.py [--loop asyncio|uvloop|trio] [--at-once] [--quiet] KIND...

Each line on stdin lets the step that is stuck end, and after a moment the next one begins.
--quiet: between two steps the loop has nothing to do.
--at-once: the first begins before the program says that it is ready.

Says, for each step, which kind, in which task and function, in which line, with which request id, when it began,
and when it has ended (time.time_ns).
"""

import argparse
import asyncio
import contextvars
import inspect
import os
import queue
import socket
import subprocess
import sys
import threading
import time

from account import say

request_id = contextvars.ContextVar("request_id", default=None)


class Gate:
    """Opens with the next line on stdin."""

    def __init__(self, let_go):
        threading.Thread(target=self.wait, args=(let_go,), daemon=True).start()

    def wait(self, let_go):
        sys.stdin.readline()
        let_go()


def note(kind, number):
    """The calling function gets stuck in its next line."""
    caller = inspect.currentframe().f_back
    say(
        account="stuck",
        kind=kind,
        function=caller.f_code.co_name,
        line=caller.f_lineno + 1,
        request_id="request-%d" % number,
        tid=threading.get_native_id(),
        began_unix_ns=time.time_ns(),
    )


def stuck_lock(number):
    lock = threading.Lock()
    lock.acquire()
    Gate(lock.release)
    note("lock", number)
    lock.acquire()


def stuck_queue(number):
    work = queue.Queue()
    Gate(lambda: work.put(None))
    note("lock", number)
    work.get()


def stuck_join(number):
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    Gate(end.set)
    note("lock", number)
    thread.join()


def stuck_sleep(number):
    # It cannot be let go: it ends by itself, a little later.
    Gate(lambda: None)
    note("sleep", number)
    time.sleep(4)


def stuck_spin(number):
    gone = []
    Gate(lambda: gone.append(1))
    note("cpu", number)
    while not gone: sum(range(1000))  # fmt: skip


def stuck_contexts(number):
    """Each sleep is in a context of its own."""
    gone = []
    Gate(lambda: gone.append(1))
    note("sleep", number)
    while not gone: contextvars.copy_context().run(time.sleep, 0.02)  # fmt: skip


def stuck_child(number):
    child = subprocess.Popen(["sleep", "60"])
    Gate(child.kill)
    note("child", number)
    child.wait()


def stuck_socket(number):
    ours, theirs = socket.socketpair()
    Gate(lambda: theirs.send(b"x"))
    note("io", number)
    ours.recv(1)


def stuck_timeout(number):
    """A socket with a timeout: Python polls it before it reads."""
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    Gate(lambda: theirs.send(b"x"))
    note("poll", number)
    ours.recv(1)


async def handle(kind, number, sleep):
    request_id.set("request-%d" % number)
    await sleep(0.01)
    globals()["stuck_" + kind](number)
    say(account="over", ended_unix_ns=time.time_ns())
    await sleep(0.01)


async def beat(sleep, options):
    while not options.quiet:
        await sleep(0.02)


def ready():
    say(account="ready", pid=os.getpid())


async def on_asyncio(options):
    loop = asyncio.get_running_loop()
    beats = loop.create_task(beat(asyncio.sleep, options))
    if not options.at_once:
        ready()
    for number, kind in enumerate(options.kinds):
        if number or not options.at_once:
            await loop.run_in_executor(None, sys.stdin.readline)
        else:
            loop.call_later(0.005, ready)
        await loop.create_task(handle(kind, number, asyncio.sleep))
    await loop.run_in_executor(None, sys.stdin.readline)
    beats.cancel()


async def on_trio(options):
    import trio

    async with trio.open_nursery() as nursery:
        nursery.start_soon(beat, trio.sleep, options)
        ready()
        for number, kind in enumerate(options.kinds):
            await trio.to_thread.run_sync(sys.stdin.readline)
            async with trio.open_nursery() as one:
                one.start_soon(handle, kind, number, trio.sleep)
        await trio.to_thread.run_sync(sys.stdin.readline)
        nursery.cancel_scope.cancel()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", default="asyncio")
    parser.add_argument("--at-once", action="store_true")
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("kinds", nargs="+")
    options = parser.parse_args()
    if options.loop == "trio":
        import trio

        trio.run(on_trio, options)
        return
    if options.loop == "uvloop":
        import uvloop

        uvloop.install()
    asyncio.run(on_asyncio(options))


if __name__ == "__main__":
    main()
