"""A service with one worker, which somebody kills.

usage: killed.py

{"do": "kill", "count": N}    the worker is killed N times, and made anew each time; the answer has the last two ids
{"do": "fill"}                the worker takes memory until it is killed, and is made anew; the same answer
"""

import asyncio
import os
import signal
import time

from account import commands, say


def handle_order():
    until = time.process_time() + 0.005
    while time.process_time() < until:
        pass


def fill_cache(*_):
    cache = []
    while True:
        cache.append(bytearray(1 << 20))


async def work():
    while True:
        handle_order()
        await asyncio.sleep(0.01)


def fork():
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGUSR1, fill_cache)
        asyncio.run(work())
    return pid


def end(worker, by):
    os.kill(worker, by)
    os.waitpid(worker, 0)
    return worker, fork()


def main():
    worker = fork()
    say(account="ready", pid=os.getpid(), worker=worker)
    for command in commands():
        by = {"kill": signal.SIGKILL, "fill": signal.SIGUSR1}[command["do"]]
        for _ in range(command.get("count", 1)):
            killed, worker = end(worker, by)
            time.sleep(0.01)
        say(account="done", killed=killed, worker=worker)
    os.kill(worker, signal.SIGKILL)
    os._exit(0)


main()
