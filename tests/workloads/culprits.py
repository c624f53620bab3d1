"""An event loop that is late for known reasons: one stall after the other, and a heartbeat beside them.

usage: culprits.py [--loop asyncio|uvloop|trio] [--length SECONDS] [--rounds N] [--around SECONDS]
                   [--spinners N] [--pause SECONDS] KIND...

--around: how long the loop runs before the first stall and after the last one.
--spinners: threads that run Python all the time.
--pause: between two stalls.

Says, for each stall, which kind, in which task and function, with which request id, when it began and
how long it took by the program's own clock (CLOCK_MONOTONIC, ns). Ends by itself.
"""

import argparse
import asyncio
import contextvars
import ctypes
import gc
import json
import os
import socket
import threading
import time

from account import say

request_id = contextvars.ContextVar("request_id", default=None)
stop = threading.Event()


def stall_sleep(length):
    time.sleep(length)


def stall_cpu(length):
    end = time.monotonic() + length
    while time.monotonic() < end:
        pass


def stall_socket(length):
    ours, theirs = socket.socketpair()
    timer = threading.Timer(length, theirs.send, [b"x"])
    timer.start()
    ours.recv(1)
    timer.join()


def stall_timeout(length):
    """A socket with a timeout: Python polls it before it reads."""
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    timer = threading.Timer(length, theirs.send, [b"x"])
    timer.start()
    ours.recv(1)
    timer.join()


def stall_lock(length):
    lock = threading.Lock()
    lock.acquire()
    timer = threading.Timer(length, lock.release)
    timer.start()
    lock.acquire()
    timer.join()


def timed(work):
    begin = time.monotonic()
    work()
    return time.monotonic() - begin


def make_json(length):
    items = 1000
    while True:
        text = json.dumps([{"key": str(i), "value": [i, i / 2, None]} for i in range(items)])
        took = timed(lambda: json.loads(text))
        if took >= length:
            return text
        items = int(items * max(1.2, min(30, 1.3 * length / max(took, 1e-6))))


def make_garbage(length):
    kept = []
    count = 200_000
    while True:
        kept.append([[] for _ in range(count)])
        missing = 1.3 * length - timed(gc.collect)
        if missing < 0.1 * length:
            return kept
        # What has been made so far tells how much more it takes.
        made = sum(map(len, kept))
        count = max(50_000, int(made * missing / (1.3 * length - missing)))


class Slow:
    def __init__(self, length):
        self.length = length

    def __del__(self):
        end = time.monotonic() + self.length
        while time.monotonic() < end:
            pass


def hog_in_c(length, begun):
    """Sleeps in C without letting go of the GIL."""
    usleep = ctypes.PyDLL(None).usleep
    begun.set()
    usleep(int(length * 1e6))


def slow_name_server():
    """Answers no question: a resolver that is asked twice, a second each."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    libc = ctypes.CDLL(None, use_errno=True)
    clone_newns, rec_private, bind = 0x20000, 0x44000, 0x1000
    if libc.unshare(clone_newns) or libc.mount(b"none", b"/", None, rec_private, None):
        raise OSError(ctypes.get_errno(), "no mount namespace")
    path = "/tmp/culprits-resolv-%d.conf" % os.getpid()
    with open(path, "w") as file:
        file.write("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    target = os.path.realpath("/etc/resolv.conf").encode()
    if libc.mount(path.encode(), target, None, bind, None):
        raise OSError(ctypes.get_errno(), "no bind mount")
    return server


class Stalls:
    """What each kind does, in the task that is to blame."""

    def __init__(self, kinds, length):
        self.length = length
        gc.disable()
        self.text = make_json(length) if "json" in kinds else None
        self.garbage = make_garbage(length) if "gc" in kinds else None
        self.server = slow_name_server() if "getaddrinfo" in kinds else None

    def run(self, kind):
        """Returns the function that is to blame."""
        length = self.length
        if kind == "json":
            json.loads(self.text)
            return "run"
        if kind == "gc":
            gc.collect()
            return "run"
        if kind == "del":
            Slow(length)
            return "__del__"
        if kind == "getaddrinfo":
            try:
                socket.getaddrinfo("concmon.example", 80)
            except OSError:
                pass
            return "getaddrinfo"
        function = globals()["stall_" + kind]
        function(length)
        return function.__name__


def account(kind, name, number, begin, end, function, **more):
    say(
        account="stall",
        kind=kind,
        task=name,
        request_id="request-%d" % number,
        begin_ns=begin,
        end_ns=end,
        function=function,
        tid=threading.get_native_id(),
        **more,
    )


def blame(stalls, kind, name, number):
    begin = time.monotonic_ns()
    function = stalls.run(kind)
    account(kind, name, number, begin, time.monotonic_ns(), function)


async def handle(stalls, kind, name, number, sleep):
    request_id.set("request-%d" % number)
    await sleep(0.01)
    blame(stalls, kind, name, number)
    await sleep(0.01)


async def beside_hog(stalls, number, sleep):
    """The loop is idle when somebody takes the GIL for long."""
    begun = threading.Event()
    hog = threading.Thread(target=hog_in_c, args=(stalls.length, begun), name="hog")
    begin = time.monotonic_ns()
    hog.start()
    # Due while the hog has the GIL.
    await sleep(0.005)
    end = time.monotonic_ns()
    account("gil", None, number, begin, end, "hog_in_c", hog=hog.native_id)
    hog.join()


def spin():
    while not stop.is_set():
        sum(range(100))


async def in_asyncio(stalls, kinds, rounds, around, pause):
    async def heartbeat():
        while True:
            await asyncio.sleep(0.01)

    beat = asyncio.ensure_future(heartbeat())
    await asyncio.sleep(around)
    number = 0
    for _ in range(rounds):
        for kind in kinds:
            number += 1
            name = "handler-%d" % number
            if kind == "gil":
                work = beside_hog(stalls, number, asyncio.sleep)
            else:
                work = handle(stalls, kind, name, number, asyncio.sleep)
            task = asyncio.get_event_loop().create_task(work)
            task.set_name(name)
            await task
            await asyncio.sleep(pause)
    await asyncio.sleep(around)
    beat.cancel()


async def in_trio(stalls, kinds, rounds, around, pause):
    import trio

    number = 0
    async with trio.open_nursery() as nursery:

        async def heartbeat():
            while True:
                await trio.sleep(0.01)

        nursery.start_soon(heartbeat)
        await trio.sleep(around)
        for _ in range(rounds):
            for kind in kinds:
                number += 1
                name = "handler-%d" % number
                async with trio.open_nursery() as inner:
                    if kind == "gil":
                        inner.start_soon(beside_hog, stalls, number, trio.sleep, name=name)
                    else:
                        inner.start_soon(
                            handle, stalls, kind, name, number, trio.sleep, name=name
                        )
                await trio.sleep(pause)
        await trio.sleep(around)
        nursery.cancel_scope.cancel()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", default="asyncio")
    parser.add_argument("--length", type=float, default=0.16)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--around", type=float, default=0)
    parser.add_argument("--spinners", type=int, default=0)
    parser.add_argument("--pause", type=float, default=0.1)
    parser.add_argument("kinds", nargs="+")
    options = parser.parse_args()
    stalls = Stalls(options.kinds, options.length)
    say(account="ready", pid=os.getpid())
    # Until the watch has begun.
    input()
    for _ in range(options.spinners):
        threading.Thread(target=spin, daemon=True).start()
    work = stalls, options.kinds, options.rounds, options.around, options.pause
    if options.loop == "trio":
        import trio

        trio.run(in_trio, *work)
    else:
        if options.loop == "uvloop":
            import uvloop

            asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        asyncio.run(in_asyncio(*work))
    stop.set()
    say(account="done")
    input()


main()
