"""Loops that are busy with nothing, sleep on ready work, or lose tasks; and ones that come close to it.

usage: polls.py CASE        each case is a function here; those that end in _near are healthy

To any command it answers with its own account: how often what it is about has happened so far.
"""

import asyncio
import gc
import os
import signal
import socket
import sys
import threading
import time

from account import commands, say

truth = {"count": 0, "longest": 0.0}


def count():
    truth["count"] += 1


def answer():
    for _ in commands():
        say(account="truth", at=time.monotonic(), **truth)


def in_loop(main):
    async def run():
        say(account="ready", pid=os.getpid())
        threading.Thread(target=answer, daemon=True).start()
        await main(asyncio.get_running_loop())

    asyncio.run(run())


async def rest():
    while True:
        await asyncio.sleep(1.5)


def closed_pipe():
    """Nobody writes any more, and the reader does not read that."""

    async def main(loop):
        inner, outer = os.pipe()
        os.close(outer)
        truth["descriptor"] = inner
        loop.add_reader(inner, count)
        await rest()

    in_loop(main)


def closed_pipe_near():
    """Somebody writes, and the reader reads."""

    async def main(loop):
        inner, outer = os.pipe()

        def read():
            os.read(inner, 100)
            count()

        def write():
            while True:
                os.write(outer, b"x" * 50)
                time.sleep(0.001)

        loop.add_reader(inner, read)
        threading.Thread(target=write, daemon=True).start()
        await rest()

    in_loop(main)


def own_pipe():
    """The loop's own pipe is at its end."""

    async def main(loop):
        truth["descriptor"] = loop._ssock.fileno()
        loop._csock.shutdown(socket.SHUT_WR)
        await rest()

    in_loop(main)


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        count()
        self.transport.write(data)


def own_pipe_near():
    """One connection that always has something to read, all of it echoed."""

    async def main(loop):
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        # Another process, so that the loop gets the GIL whenever it wants.
        client = os.fork()
        if client == 0:
            talk(address)
        await rest()

    in_loop(main)


def talk(address):
    try:
        peer = socket.create_connection(address)
        flood = threading.Thread(target=lambda: [peer.sendall(b"x" * 100) for _ in iter(int, 1)])
        flood.daemon = True
        flood.start()
        while peer.recv(65536):
            pass
    finally:
        os._exit(0)


def writer():
    """A socket that can always be written to."""

    async def main(loop):
        one, other = socket.socketpair()
        truth["descriptor"] = one.fileno()
        loop.add_writer(one, count)
        await rest()
        print(other)

    in_loop(main)


def writer_near():
    """Many callbacks that have something to do, and go round at once."""

    async def main(loop):
        def work():
            count()
            sum(range(20_000))
            loop.call_soon(work)

        work()
        await rest()

    in_loop(main)


def again():
    """A callback that calls itself again."""

    async def main(loop):
        def tick():
            count()
            loop.call_later(0, tick)

        tick()
        await rest()

    in_loop(main)


def again_soon():
    """As that, without a timer."""

    async def main(loop):
        def tick():
            count()
            loop.call_soon(tick)

        tick()
        await rest()

    in_loop(main)


def again_near():
    """A timer of 10 ms."""

    async def main(loop):
        def tick():
            count()
            loop.call_later(0.01, tick)

        tick()
        await rest()

    in_loop(main)


def short_sleep():
    async def poll():
        while True:
            count()
            await asyncio.sleep(0.001)

    async def main(loop):
        truth["task"] = "poller"
        poller = asyncio.ensure_future(poll())
        poller.set_name("poller")
        await rest()

    in_loop(main)


def short_sleep_near():
    async def poll():
        while True:
            count()
            await asyncio.sleep(0.01)

    async def main(loop):
        pollers = [asyncio.ensure_future(poll()) for _ in range(5)]
        await rest()
        print(pollers)

    in_loop(main)


def short_get():
    async def poll(queue):
        while True:
            count()
            try:
                await asyncio.wait_for(queue.get(), 0.002)
            except asyncio.TimeoutError:
                pass

    async def main(loop):
        truth["task"] = "getter"
        getter = asyncio.ensure_future(poll(asyncio.Queue()))
        getter.set_name("getter")
        await rest()

    in_loop(main)


def wait_none():
    """Asks whether something has come, without ever waiting for it."""

    async def poll(loop):
        future = loop.create_future()
        while not future.done():
            count()
            await asyncio.wait([future], timeout=0)

    spinning(poll)


def wait_for_none():
    async def poll(loop):
        queue = asyncio.Queue()
        while True:
            count()
            try:
                await asyncio.wait_for(queue.get(), 0)
            except asyncio.TimeoutError:
                pass

    spinning(poll)


def spinning(poll):
    async def main(loop):
        poller = asyncio.ensure_future(poll(loop))
        truth["task"] = poller.get_name()
        await rest()

    in_loop(main)


def short_get_near():
    """Work comes often, and nobody polls for it."""

    async def serve(queue):
        while True:
            await asyncio.wait_for(queue.get(), 5)
            count()

    async def main(loop):
        queue = asyncio.Queue()
        server = asyncio.ensure_future(serve(queue))
        while not server.done():
            queue.put_nowait(1)
            await asyncio.sleep(0.01)

    in_loop(main)


def missed(set_event):
    """`set_event` is called in a thread, for an event that a task waits for."""

    async def consume(loop):
        while True:
            event = asyncio.Event()

            def work():
                time.sleep(0.05)
                began.append(time.monotonic())
                set_event(loop, event)

            began = []
            threading.Thread(target=work, daemon=True).start()
            await event.wait()
            count()
            truth["longest"] = max(truth["longest"], time.monotonic() - began[0])

    async def main(loop):
        truth["task"] = "consumer"
        consumer = asyncio.ensure_future(consume(loop))
        consumer.set_name("consumer")
        await rest()

    in_loop(main)


def event():
    missed(lambda loop, event: event.set())


def event_near():
    """As it is to be, while other threads fight for the GIL."""
    for _ in range(2):
        threading.Thread(target=hog, daemon=True).start()
    missed(lambda loop, event: loop.call_soon_threadsafe(event.set))


def hog():
    while True:
        sum(range(1000))
        time.sleep(0.0005)


def handler():
    """A signal handler makes work, and does not wake the loop: it goes on waiting."""

    async def consume(loop):
        while True:
            future = loop.create_future()

            def on_signal(*_):
                began.append(time.monotonic())
                future.set_result(None)

            began = []
            signal.signal(signal.SIGALRM, on_signal)
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            await future
            count()
            truth["longest"] = max(truth["longest"], time.monotonic() - began[0])

    async def main(loop):
        truth["task"] = "consumer"
        consumer = asyncio.ensure_future(consume(loop))
        consumer.set_name("consumer")
        await rest()

    in_loop(main)


def handler_near():
    """Blocking work in threads, all the time: its results wake the loop."""

    async def main(loop):
        asyncio.ensure_future(rest())
        while True:
            await asyncio.gather(
                *(loop.run_in_executor(None, time.sleep, 0.02) for _ in range(4))
            )
            count()

    in_loop(main)


async def deliver(loop):
    await loop.create_future()


async def passing():
    await asyncio.sleep(0.02)


def vanish():
    """Tasks that nobody keeps, beside many that come and go."""

    async def main(loop):
        loop.set_exception_handler(lambda *_: count())
        while True:
            for _ in range(5):
                asyncio.ensure_future(deliver(loop))
            kept = [asyncio.ensure_future(passing()) for _ in range(20)]
            await asyncio.sleep(0.1)
            await asyncio.gather(*kept)
            gc.collect()

    in_loop(main)


def vanish_near():
    """Tasks that are kept, change their name, are cancelled, or end at once."""

    async def renamed():
        asyncio.current_task().set_name("other")
        await asyncio.sleep(0.5)

    async def main(loop):
        kept = set()
        while True:
            for make in [passing, renamed, lambda: deliver(loop), lambda: asyncio.sleep(0)]:
                for _ in range(3):
                    task = asyncio.ensure_future(make())
                    kept.add(task)
                    task.add_done_callback(kept.discard)
            await asyncio.sleep(0.02)
            for task in list(kept)[::7]:
                task.cancel()
            gc.collect()

    in_loop(main)


globals()[sys.argv[1]]()
